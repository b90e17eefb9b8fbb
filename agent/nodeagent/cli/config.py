"""Verb `config`: validate a node file, print it with its defaults, its schema, its reference and examples."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from nodeagent.cli.completing import example_names, offer
from nodeagent.cli.output import emit
from nodeagent.cli.target import add_target_options, target_of
from nodeagent.errors import SpecProblem
from nodeagent.host.paths import NODE_FILE

if TYPE_CHECKING:
    from nodeagent.spec.reader import Reading

IMPORTED = "a file of another program (`nodeagent config import --help` names them), or - for standard input"
EXAMPLES = """\
examples:
  nodeagent config validate /etc/nodeagent/node.yaml
  nodeagent config example dgx-a100 > node.yaml
  nodeagent config adopt > node.yaml
  nodeagent config import config.json > node.yaml
  nodeagent config schema > node.schema.json
"""


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    """Add `config` and what stands below it."""
    config = subparsers.add_parser("config", help="validate a node file, print its schema, an example", epilog=EXAMPLES)
    verbs = config.add_subparsers(dest="config_verb", metavar="WHAT", required=True)
    _add(verbs, common, "validate", "say whether node files are right, or every mistake in them (exit 2)", validate)
    _add(verbs, common, "show", "print a node file with all defaults filled in", show)
    _add(verbs, common, "example", "print a commented node file", example)
    _add(verbs, common, "schema", "print the JSON Schema of the node file", schema)
    _add(verbs, common, "adopt", "print a node file that says this node as it is now", adopt)
    _add(verbs, common, "import", "print a node file made from another program's file", import_)
    _add(verbs, common, "reference", "print the reference page of the node file (Markdown)", reference)
    add_target_options(verbs.choices["adopt"])
    verbs.choices["import"].add_argument("file", metavar="FILE", help="the other program's file, - for standard input")
    verbs.choices["validate"].add_argument("files", metavar="FILE", nargs="+", help="node file, - for standard input")
    verbs.choices["show"].add_argument(
        "file", metavar="FILE", nargs="?", default=NODE_FILE, help="default: %(default)s"
    )
    which = verbs.choices["example"].add_argument(
        "name", metavar="NAME", nargs="?", default="", help="default: every key there is"
    )
    offer(which, example_names)
    verbs.choices["example"].add_argument("--list", action="store_true", help="print the names of the examples")


def _add(verbs: Any, common: argparse.ArgumentParser, name: str, help_text: str, run: Any) -> None:
    parser = verbs.add_parser(
        name,
        parents=[common],
        help=help_text,
        description=help_text[0].upper() + help_text[1:] + ".",
        epilog=_EPILOGS[name],
    )
    parser.set_defaults(run=run)


_EPILOGS = {
    "validate": "examples:\n  nodeagent config validate node.yaml\n  nodeagent config validate -o json *.yaml",
    "show": "examples:\n  nodeagent config show\n  nodeagent config show -o json node.yaml",
    "example": "examples:\n  nodeagent config example --list\n  nodeagent config example dgx-a100 > node.yaml",
    "schema": "examples:\n  nodeagent config schema > node.schema.json",
    "adopt": (
        "For a machine that is set up already: modules, MIG layouts, links and QoS of RDMA NICs, RoCE defaults and\n"
        "virtual functions as they are become what is wanted, and nothing is touched. The file is compared with the\n"
        "node before it is printed; what would be changed all the same is a comment at its head, and exit code 3.\n"
        "Addresses, routes and settings that no comment speaks of are left alone; take out what is not to be kept.\n\n"
        "examples:\n  nodeagent config adopt > node.yaml\n  nodeagent config adopt --simulate dgx-a100\n"
        "  nodeagent plan --file node.yaml"
    ),
    "import": (
        "Reads config.json of the RDMA shared device plugin (also in a ConfigMap), NicConfigurationTemplate,\n"
        "SriovNetworkNodePolicy, and lines such as roce_enable=true or openib.conf's. What has no counterpart is a\n"
        "comment with its place; a mistake in the file is an error (exit 2).\n\n"
        "examples:\n  nodeagent config import config.json > node.yaml\n"
        "  kubectl get sriovnetworknodepolicy rail -o yaml | nodeagent config import -"
    ),
    "reference": "examples:\n  nodeagent config reference > docs/node-file.md",
}


def validate(arguments: argparse.Namespace) -> int:
    """Exit 0 if every file is right, 2 if one has a problem; hints do not count."""
    readings = {file: _examine(file) for file in arguments.files}
    found = [_entry(problem, "error") for reading in readings.values() for problem in reading.problems]
    found += [_entry(hint, "hint") for reading in readings.values() for hint in reading.hints]
    emit(found, arguments.output, lambda: "\n".join(line for item in readings.items() for line in _lines(*item)))
    return 0 if all(reading.spec for reading in readings.values()) else 2


def _examine(file: str) -> Reading:
    from nodeagent.spec import reader

    return reader.examine(sys.stdin.read(), "standard input") if file == "-" else reader.examine_file(file)


def _entry(problem: SpecProblem, severity: str) -> dict[str, Any]:
    return {"severity": severity, **problem._asdict()}


def _lines(file: str, reading: Reading) -> list[str]:
    lines = [str(problem) for problem in reading.problems] + [f"{hint} (hint)" for hint in reading.hints]
    return [*lines, f"{file}: valid"] if reading.spec else lines


def show(arguments: argparse.Namespace) -> int:
    """Raises SpecError when the file is wrong."""
    from nodeagent.spec import reader, render

    document = render.to_document(reader.read_spec(arguments.file))
    emit(document, arguments.output, lambda: render.render(document).rstrip())
    return 0


def example(arguments: argparse.Namespace) -> int:
    """Raises UsageError for an example that does not exist."""
    from nodeagent.spec import example as examples
    from nodeagent.spec.render import plain

    if arguments.list:
        titles = {name: entry.title for name, entry in examples.EXAMPLES.items()}
        emit(titles, arguments.output, lambda: "\n".join(f"{name:16}{title}" for name, title in titles.items()))
        return 0
    text = examples.example_text(arguments.name or examples.EVERY_KEY)
    document = examples.EXAMPLES[arguments.name or examples.EVERY_KEY].document
    emit(plain(document), arguments.output, text.rstrip)
    return 0


def schema(arguments: argparse.Namespace) -> int:
    from nodeagent.spec.json_schema import json_schema

    document = json_schema()
    emit(document, arguments.output, lambda: json.dumps(document, indent=2))
    return 0


def reference(arguments: argparse.Namespace) -> int:
    from nodeagent.spec.reference import reference_page

    page = reference_page()
    emit({"page": page}, arguments.output, page.rstrip)
    return 0


def import_(arguments: argparse.Namespace) -> int:
    """Raises SpecError when the file is wrong, or of no known kind."""
    from nodeagent.spec import importing, reader, render

    name = "standard input" if arguments.file == "-" else arguments.file
    text = sys.stdin.read() if arguments.file == "-" else reader.read_text(arguments.file, IMPORTED)
    imported = importing.import_text(text, name)
    document = {"document": imported.document, "remarks": [remark._asdict() for remark in imported.remarks]}
    lines = [f"# {remark}" for remark in imported.remarks]
    emit(document, arguments.output, lambda: "\n".join([*lines, render.render(imported.document).rstrip()]))
    return 0


def adopt(arguments: argparse.Namespace) -> int:
    """Exit 3 when a plan made from the file would not be empty, which its head then says."""
    from nodeagent.cli.convergence import NOT_AS_WISHED
    from nodeagent.plan.adopting import adopt_node
    from nodeagent.spec.render import render

    target = target_of(arguments)
    with target.observer() as observer:
        found = adopt_node(observer)
    title = "\n".join((f"{target.title} as it was found.", *(f"Not so: {one}" for one in found.differences)))
    document = {"document": found.document, "differences": list(found.differences)}
    emit(document, arguments.output, lambda: render(found.document, notes=found.notes, title=title).rstrip())
    return NOT_AS_WISHED if found.differences else 0
