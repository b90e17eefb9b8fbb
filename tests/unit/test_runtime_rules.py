"""What is changed in the configuration of each container runtime, and what is left alone."""

from __future__ import annotations

import json
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.host.paths import CONTAINERD_CONFIG, CONTAINERD_DROP_IN, CRIO_DROP_IN, DOCKER_CONFIG, PODMAN_DROP_IN
from nodeagent.host.runtime_facts import imports_of
from nodeagent.resources.config_edit import Setting, UneditableError, difference, edit_json, edit_toml, with_settings
from nodeagent.resources.runtime_rules import ImpossibleError, Wanted, change_for
from nodeagent.state.containers import ConfigFile, Runtime

V2, V3 = 'plugins."io.containerd.grpc.v1.cri"', 'plugins."io.containerd.cri.v1.runtime"'
ELSEWHERE = Wanted(("/etc/cdi", "/var/run/cdi", "/srv/cdi"))
WITH_RUNTIME = Wanted(nvidia_runtime=True)


def runtime(name, version, *files, **rest):
    found = {path: text if isinstance(text, ConfigFile) else ConfigFile(text) for path, text in files}
    return Runtime(name, version, found, active=True, nvidia_runtime=True, **rest)


def containerd(version, text=None, *more, **rest):
    return runtime("containerd", version, *([(CONTAINERD_CONFIG, text)] if text is not None else []), *more, **rest)


def lines(change):
    return difference(change.before or "", change.text or "")


@pytest.mark.parametrize(
    ("found", "path", "changed"),
    [
        (containerd("1.7.24", "version = 2\n"), CONTAINERD_CONFIG, f"+[{V2}]; +enable_cdi = true"),
        (containerd("1.7.24", f"version = 2\n[{V2}]\n# off\nenable_cdi = false # why\n"), CONTAINERD_CONFIG,
         "-enable_cdi = false # why; +enable_cdi = true # why"),
        (containerd("1.7.24"), CONTAINERD_CONFIG, f"+version = 2; +[{V2}]; +enable_cdi = true"),
        (containerd("1.7.24", ""), CONTAINERD_CONFIG, f"+version = 2; +[{V2}]; +enable_cdi = true"),
        (containerd("1.7.24", "root = '/x'\n"), CONTAINERD_CONFIG, "+[plugins.cri]; +enable_cdi = true"),
        (containerd("2.0.1", f"version = 3\n[{V3}]\nenable_cdi = false\n"), CONTAINERD_CONFIG,
         "-enable_cdi = false; +enable_cdi = true"),
        (containerd("2.1.4", f"version = 3\nimports = ['/etc/containerd/conf.d/*.toml']\n[{V3}]\nenable_cdi = false\n"),
         CONTAINERD_DROP_IN, f"+version = 3; +[{V3}]; +enable_cdi = true"),
        (containerd("2.1.4", f"version = 3\nimports = ['conf.d/*.toml']\n[{V3}]\nenable_cdi = false\n"),
         CONTAINERD_DROP_IN, f"+version = 3; +[{V3}]; +enable_cdi = true"),
        (containerd("2.2.0", f"version = 4\n[{V3}]\nenable_cdi = false\n"), CONTAINERD_CONFIG,
         "-enable_cdi = false; +enable_cdi = true"),
        # before 2.1 an imported file's table replaces the whole of the main one: the key must go where it counts
        (containerd("1.7.24", f"version = 2\n[{V2}]\nenable_cdi = true\n",
                    ("/etc/containerd/conf.d/99-nvidia.toml", f"version = 2\n[{V2}.containerd]\ndefault = 'x'\n")),
         "/etc/containerd/conf.d/99-nvidia.toml", f"+[{V2}]; +enable_cdi = true"),
        (runtime("docker", "25.0.3", (DOCKER_CONFIG, '{\n  "live-restore": true\n}\n')), DOCKER_CONFIG,
         '-"live-restore": true; +"live-restore": true,; +"features": {; +"cdi": true; +}'),
        (runtime("docker", "27.5.1"), DOCKER_CONFIG, '+{; +"features": {; +"cdi": true; +}; +}'),
        (runtime("docker", "29.0.0", (DOCKER_CONFIG, '{"features": {"cdi": false}}')), DOCKER_CONFIG,
         '-{"features": {"cdi": false}}; +{; +"features": {; +"cdi": true; +}; +}'),
        (runtime("podman", "5.5.2"), PODMAN_DROP_IN, '+[engine]; +cdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]'),
    ],
)  # fmt: skip
def test_the_fewest_keys(found, path, changed):
    change = change_for(found, Wanted())
    assert (change.path, lines(change)) == (path, changed)


@pytest.mark.parametrize(
    "found",
    [
        containerd("2.0.1"),
        containerd("2.1.4", "version = 3\n"),
        containerd("2.3.0", "version = 4\n"),
        containerd("2.0.1", "version = 2\n"),
        containerd("1.7.24", f"version = 2\n[{V2}]\nenable_cdi = true\n"),
        containerd("1.7.24", f'version = 2\n[{V2}]\nenable_cdi = true\ncdi_spec_dirs = ["/run/cdi", "/etc/cdi"]\n'),
        containerd(
            "2.1.0", f"version = 3\n[{V3}]\nenable_cdi = false\n", ("/etc/x.toml", f"[{V3}]\nenable_cdi = true\n")
        ),
        runtime("docker", "28.3.0"),
        runtime("docker", "25.0.0", (DOCKER_CONFIG, '{"features": {"cdi": true}}')),
        runtime("crio", "1.30.0"),
        runtime("podman", "4.3.1"),
        runtime("podman", "5.4.2"),
        runtime(
            "podman", "5.6.0", ("/etc/containers/containers.conf", '[engine]\ncdi_spec_dirs=["/etc/cdi","/run/cdi"]')
        ),
        containerd("", "version = 3\n", generated=CONTAINERD_CONFIG),
    ],
)
def test_nothing_is_changed_where_cdi_is_on(found):
    assert change_for(found, Wanted()).text is None


@pytest.mark.parametrize(
    ("found", "wanted", "words"),
    [
        (containerd("1.6.20~ds1"), Wanted(), "version 1.6.20~ds1 has no CDI"),
        (containerd("1.7.0", "version = 5\n"), Wanted(), "its configuration has version 5"),
        (containerd("2.0.0", "root = '/x'\n"), Wanted(), "its configuration has version 1"),
        (containerd("1.7.0", "version = 2\nversion = 2\n"), Wanted(), "is not TOML"),
        (containerd("1.7.0", ConfigFile("", problem="it is not UTF-8")), Wanted(), "it is not UTF-8"),
        (containerd("1.7.0", ConfigFile("version = 2\n", link="/nix/x")), Wanted(), "is a link to /nix/x"),
        (containerd("1.7.0", "version = 2\ndisabled_plugins = ['cri']\n"), Wanted(), "its CRI plugin is disabled"),
        (containerd("1.7.0", f"version = 2\n{V2} = 3\n"), Wanted(), "is not a table"),
        (containerd("2.1.0", f"version=3\nimports=['/etc/containerd/conf.d/*.toml']\n[{V3}]\nenable_cdi=false\n",
                    ("/etc/containerd/conf.d/99-nvidia.toml", f"version=3\n[{V3}]\nenable_cdi=false\n")), Wanted(),
         "an imported file overrides enable_cdi"),
        (runtime("docker", "20.10.24+dfsg1"), Wanted(), "version 20.10.24+dfsg1 has no CDI"),
        (runtime("docker", "25.0.0", (DOCKER_CONFIG, "{")), Wanted(), "is not JSON"),
        (runtime("docker", "25.0.0", (DOCKER_CONFIG, "[]")), Wanted(), "is not a JSON object"),
        (runtime("docker", "25.0.0", (DOCKER_CONFIG, '{"features": []}')), Wanted(), "features is not a table"),
        (runtime("docker", ""), Wanted(), "its version cannot be told"),
        (runtime("podman", "4.0.0"), Wanted(), "has no CDI"),
        (runtime("podman", "5.0.0"), ELSEWHERE, "its own two directories only"),
        (Runtime("crio", "1.30.0"), WITH_RUNTIME, "nvidia-container-runtime is not there"),
        (containerd("", f"version = 3\n[{V3}]\nenable_cdi = false\n",
                    generated=CONTAINERD_CONFIG), Wanted(), "written anew at each start"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(found, wanted, words):
    with pytest.raises(ImpossibleError, match=words.replace("+", r"\+")) as error:
        change_for(found, wanted)
    assert error.value.advice


def test_the_wrapper_runtime_only_when_asked_for():
    text = change_for(containerd("2.1.0", "version = 3\n"), WITH_RUNTIME).text
    found = tomllib.loads(text)["plugins"]["io.containerd.cri.v1.runtime"]["containerd"]["runtimes"]["nvidia"]
    assert found["runtime_type"] == "io.containerd.runc.v2"
    assert found["options"] == {"BinaryName": "/usr/bin/nvidia-container-runtime"}
    crio = change_for(runtime("crio", "1.30.0"), WITH_RUNTIME)
    assert crio.path == CRIO_DROP_IN
    assert tomllib.loads(crio.text)["crio"]["runtime"]["runtimes"]["nvidia"]["runtime_type"] == "oci"
    docker = change_for(runtime("docker", "28.3.0"), WITH_RUNTIME)
    assert json.loads(docker.text) == {"runtimes": {"nvidia": {"path": "/usr/bin/nvidia-container-runtime"}}}
    podman = change_for(runtime("podman", "5.4.0"), WITH_RUNTIME)
    assert tomllib.loads(podman.text)["engine"]["runtimes"]["nvidia"] == ["/usr/bin/nvidia-container-runtime"]


@pytest.mark.parametrize("name", ["containerd", "crio", "docker", "podman"])
def test_other_directories_are_told_and_a_second_look_changes_nothing(name):
    versions = {"containerd": "2.1.0", "crio": "1.30.0", "docker": "28.3.0", "podman": "5.6.0"}
    change = change_for(runtime(name, versions[name]), ELSEWHERE)
    assert "/srv/cdi" in change.text
    again = runtime(name, versions[name], (change.path, change.text))
    assert change_for(again, ELSEWHERE).text is None


def test_docker_stops_containers_unless_it_keeps_them():
    def stops(text):
        return change_for(runtime("docker", "25.0.0", (DOCKER_CONFIG, text)), Wanted()).stops_containers

    assert stops("{}")
    assert stops('{"live-restore": false}')
    assert not stops('{"live-restore": true}')


AWKWARD = {
    "dotted keys": 'version = 2\nplugins."io.containerd.grpc.v1.cri".sandbox_image = "x" # pause\n',
    "inline table": 'version = 2\nplugins = { "io.containerd.grpc.v1.cri" = { enable_selinux = true } }\n',
    "inline plugin": 'version = 2\n[plugins]\n"io.containerd.grpc.v1.cri" = { enable_selinux = true }\n',
    "literal quotes": "version = 2\n[plugins.'io.containerd.grpc.v1.cri']\n  enable_selinux = true\n",
    "deep tables first": f"version = 2\n[{V2}.containerd.runtimes.runc.options]\nSystemdCgroup = true\n",
    "table after its child": f"version = 2\n[{V2}.cni]\nbin_dir = 'x'\n[{V2}]\nenable_selinux = true\n",
    "tables apart": f"version = 2\n[{V2}.cni]\nbin_dir = 'x'\n[debug]\nlevel = 'info'\n[{V2}.registry]\nx = ''\n",
    "windows lines": f"version = 2\r\n[{V2}]\r\n  enable_selinux = true\r\n",
    "no last newline": f"version = 2\n[{V2}]\nenable_selinux = true",
    "comments everywhere": f"# a\nversion = 2 # b\n# c\n[{V2}] # d\n# e\nenable_selinux = true # f\n# g",
    "tabs and blanks": f"version=2\n\n\n\t[{V2}]\n\t\tenable_selinux=true\n\n\n[debug]\n",
    "multi-line text": f'version = 2\n[{V2}]\nx = """\n[{V2}]\nenable_cdi = true\n"""\n',
    "array of tables": f"version = 2\n[[stream_processors]]\nid = 1\n[[stream_processors]]\nid = 2\n[{V2}]\n",
    "unicode": f'version = 2\n[{V2}]\nsandbox_image = "größe/暂停" # ä\n',
    "already as text": f'version = 2\n[{V2}]\nenable_cdi = "true"\n',
}


@pytest.mark.parametrize("case", AWKWARD)
def test_awkward_files_keep_all_that_was_in_them(case):
    """Every value as before and the one key; every comment still there."""
    text = AWKWARD[case]
    path = ("plugins", "io.containerd.grpc.v1.cri", "enable_cdi")
    change = change_for(containerd("1.7.24", text), Wanted())
    assert tomllib.loads(change.text) == with_settings(tomllib.loads(text), [Setting(path, True)])
    for comment in ("# a", "# b", "# c", "# d", "# e", "# f", "# g", "# pause", "# ä"):
        assert (comment in text) == (comment in change.text)
    assert change_for(containerd("1.7.24", change.text), Wanted()).text is None


WORD = st.sampled_from(["a", "b", "io.c", "x y", "ü", "1"])
VALUE = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.text("ab\"'\\#\n[]", max_size=4) | st.lists(st.integers(0, 3), max_size=3),
    lambda inner: st.dictionaries(WORD, inner, max_size=3),
    max_leaves=6,
)


def as_toml(values, path=()):
    """The values as tables, leaves first, each table with a comment."""
    rows = [f"{json.dumps(key, ensure_ascii=False)} = {json.dumps(value, ensure_ascii=False)}"
            for key, value in values.items() if not isinstance(value, dict)]  # fmt: skip
    for key, value in values.items():
        if isinstance(value, dict):
            place = (*path, key)
            rows.append("[" + ".".join(json.dumps(part, ensure_ascii=False) for part in place) + "] # kept")
            rows.append(as_toml(value, place))
    return "\n".join(rows)


@given(values=st.dictionaries(WORD, VALUE, max_size=4), path=st.lists(WORD, min_size=1, max_size=3))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_an_edit_sets_the_key_and_nothing_else_or_refuses(values, path):
    wanted = [Setting(tuple(path), True)]
    for text, edit, read in ((as_toml(values), edit_toml, tomllib.loads), (json.dumps(values), edit_json, json.loads)):
        try:
            edited = edit(text, wanted)
        except UneditableError:
            continue
        assert read(edited) == with_settings(values, wanted)
        assert edited.count("# kept") == text.count("# kept")


def test_imports_of_a_file_that_cannot_be_read_are_none():
    assert imports_of("imports = ['a', 'b/*.toml']") == ("a", "b/*.toml")
    assert imports_of("imports = 3") == ()
    assert imports_of("[") == ()
