"""Verb `labels`: what this node says about itself to a scheduler."""

from __future__ import annotations

import argparse
import os
from typing import Any

from nodeagent.cli.health import look
from nodeagent.cli.output import columns, emit
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.target import add_file_option, add_target_options, spec_of, target_of
from nodeagent.errors import UsageError
from nodeagent.plan.convergence import goal_of
from nodeagent.resources.container_query import container_query
from nodeagent.resources.labels import labels_of
from nodeagent.spec.labels import Labels, MigStrategy
from nodeagent.spec.schema import NodeSpec

_EPILOG = """\
Without a node file, or without section labels in it, the defaults of that section apply.

examples:
  nodeagent labels
  nodeagent labels --mig-strategy mixed -o json
  nodeagent labels --patch        (in a pod whose service account may get and patch nodes)
"""
_TEXT = "print the node's labels, as gpu-feature-discovery gives them and our own; or patch the node object"


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = add_verb(subparsers, "labels", common, _TEXT, _EPILOG)
    add_target_options(parser)
    add_file_option(parser)
    parser.add_argument("--mig-strategy", choices=[one.value for one in MigStrategy], help="instead of the file's")
    parser.add_argument("--patch", action="store_true", help="set them on the node object through the Kubernetes API")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    target = target_of(arguments)
    has_file = arguments.file or target.simulated or os.path.exists(target.default_file)
    spec = spec_of(arguments, target)[0] if has_file else NodeSpec(version=1)
    section = spec.labels or Labels()
    if arguments.mig_strategy:
        section = replace(section, mig_strategy=MigStrategy(arguments.mig_strategy))
    spec = replace(spec, labels=section)
    query = container_query(spec)
    with target.observer(spec.loop.nvml_deadline_seconds) as observer:
        state = observer.observe(goal_of(spec).interest)
        state = observer.add_containers(state, query) if query else state
    state = replace(state, health=look(arguments, target))
    try:
        labels = labels_of(spec, state)
    except ValueError as error:
        raise UsageError(f"print labels: {error}") from error
    if arguments.patch:
        _patch(labels, target.root)
    emit(labels, arguments.output, lambda: columns([(key, value) for key, value in labels.items()]))
    return 0


def _patch(labels: dict[str, str], root: str) -> None:
    from nodeagent.kubernetes.api_client import access_from
    from nodeagent.kubernetes.node_api import NodeApi

    NodeApi(access_from(os.environ, root)).publish(labels)
