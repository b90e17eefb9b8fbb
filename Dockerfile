# syntax=docker/dockerfile:1
# Stage 1 builds the native helpers and the wheel; stage 2 only runs them.
#
#   docker build -t nodeagent .
#   docker run --rm -p 9400:9400 nodeagent run --simulate dgx-a100 --listen 0.0.0.0:9400       unprivileged, simulated
#   docker run --privileged --pid=host --network=host \
#     -v /dev:/dev -v /sys:/sys -v /lib/modules:/lib/modules:ro -v /etc/modprobe.d:/etc/modprobe.d:ro \
#     -v /etc/nodeagent:/etc/nodeagent:ro -v /var/lib/nodeagent:/var/lib/nodeagent -v /run/nodeagent:/run/nodeagent \
#     -v /run/systemd:/run/systemd -v /run/dbus/system_bus_socket:/run/dbus/system_bus_socket \
#     -v /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1:/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1:ro \
#     nodeagent run                                                                            against the host
FROM debian:12.12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev libkmod-dev python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY deploy/constraints.txt deploy/
COPY agent agent
COPY native native
RUN python3 -m venv /opt/nodeagent \
    && /opt/nodeagent/bin/pip install --no-cache-dir --constraint deploy/constraints.txt '.[kubernetes]'

FROM debian:12.12-slim
# kmod: depmod and modinfo for the simulated node; systemd: systemctl, to stop and start services of the host over its bus.
RUN apt-get update && apt-get install -y --no-install-recommends kmod libkmod2 libudev1 python3 systemd \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/nodeagent /opt/nodeagent
COPY examples /usr/share/nodeagent/examples
ENV PATH=/opt/nodeagent/bin:$PATH PYTHONDONTWRITEBYTECODE=1
ENTRYPOINT ["nodeagent"]
CMD ["run"]
