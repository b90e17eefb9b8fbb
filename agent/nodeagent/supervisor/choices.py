"""The node file's `metrics` section as the sampler needs it; files it names are read again when they change."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nodeagent.errors import HostError
from nodeagent.metrics.options import DcgmNames, HostLabel, Options
from nodeagent.metrics.selection import parse_counters
from nodeagent.plan.convergence import pod_socket
from nodeagent.spec.containers import Component

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nodeagent.host.ports import Files
    from nodeagent.spec.schema import Metrics

log = logging.getLogger("nodeagent")


class Choices:
    """What to show and where. A list of counters that became wrong is reported once and the last good one stays."""

    def __init__(self, section: Metrics, files: Files) -> None:
        self._files = files
        self._text: str | None = None
        self._families: frozenset[str] | None = None
        self._complaint = ""
        self.section = section
        self.errors = 0

    def take_over(self, section: Metrics) -> None:
        """The node file was read again."""
        if section.counters_file != self.section.counters_file:
            self._text, self._families = None, None
        self.section = section

    def options(self) -> Options:
        """As of now."""
        self._read_counters()
        return Options(
            host_label=HostLabel(self.section.host_label),
            families=frozenset() if self.section.dcgm is Component.OFF else self._families,
            instance_copies=self.section.instance_copies,
            node_exporter_names=self.section.node_exporter_names,
            operator_names=self.section.operator_names,
            dcgm_names=DcgmNames(self.section.dcgm_names),
        )

    def pod_socket(self) -> str:
        """Where to ask for pods, "" for nowhere."""
        return pod_socket(self.section)

    def jobs(self) -> Mapping[str, tuple[str, ...]]:
        """Job ids by the name of the mapping file."""
        directory = self.section.job_mapping_dir
        if not directory:
            return {}
        texts = {name: self._files.read_optional(f"{directory}/{name}") for name in self._files.names(directory)}
        return {name: tuple(text.split()) for name, text in texts.items() if text and text.split()}

    def _read_counters(self) -> None:
        if not self.section.counters_file:
            return
        try:
            text = self._files.read(self.section.counters_file)
            if text != self._text:
                self._take(text)
                self._text, self._complaint = text, ""
        except HostError as error:
            self.errors += 1
            if str(error) != self._complaint:
                log.error("counters not taken over, the last good ones stay: %s", error)
            self._complaint = str(error)

    def _take(self, text: str) -> None:
        found = parse_counters(text, self.section.counters_file)
        for warning in found.warnings:
            log.warning("%s", warning)
        self._families = found.families
