"""Gathers what the proofs look at, and makes one round of them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from nodeagent.errors import HostError
from nodeagent.host import paths
from nodeagent.host.files import rooted
from nodeagent.host.ports import Files, Host
from nodeagent.plan.observing import Observer
from nodeagent.resources.cdi import directories_of
from nodeagent.resources.cdi_checks import Severity, findings
from nodeagent.resources.container_query import query_for
from nodeagent.resources.runtime_rules import ImpossibleError, Wanted, change_for
from nodeagent.spec.containers import Cdi
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.containers import CdiFile, Runtime
from nodeagent.state.proofs import Finding, Proof, Trial, Validation, Work
from nodeagent.supervisor.validation_rdma import gpudirect, rdma
from nodeagent.validation import checks, trials
from nodeagent.validation.facts import Facts
from nodeagent.validation.running import make

MLX5 = "mlx5_core"
_COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*')


@dataclass(frozen=True)
class Round:
    """What to prove. `in_use`: also on GPUs that somebody uses."""

    proofs: frozenset[Proof]
    deadline_seconds: float = 60.0
    in_use: bool = False
    cdi: Cdi = field(default_factory=Cdi)
    wants_rdma: bool = True


def gather(observer: Observer, section: Cdi, *, wants_rdma: bool = True) -> Facts:
    """Everything but the trials. HostError where the node cannot be observed."""
    state = observer.observe(())
    state = observer.add_containers(state, query_for(section, runtimes=True))
    host = observer.host
    allocatable, has_kubelet, trouble = _kubelet(host.files)
    return Facts(
        state=state,
        cdi_files=state.containers.cdi_files,
        cdi_problems=_cdi_problems(host.files, state.containers.cdi_files),
        runtimes={name: _unready(one, section) for name, one in state.containers.runtimes.items()},
        has_kubelet=has_kubelet,
        allocatable_gpus=allocatable,
        kubelet_trouble=trouble,
        nvidia_fs=host.files.read_optional(paths.PROC_NVIDIA_FS_VERSION),
        cufile_problem=cufile_problem(host.files.read_optional(paths.CUFILE_CONFIG)),
        ofed_ready=host.files.exists(paths.OFED_READY),
        wants_rdma=wants_rdma,
    )


def asks_for_rdma(spec: NodeSpec) -> bool:
    """Whether modules of RDMA are missed where they are not loaded; a file without `modules` says nothing of it."""
    modules = spec.modules
    return modules is None or modules.rdma is not None or MLX5 in modules.named


def _cdi_problems(files: Files, there: Sequence[CdiFile]) -> Mapping[str, str]:
    """By path of the specification: the first thing that keeps a runtime from using it."""
    missing = {path for one in there for path in one.paths if not files.exists(path)}
    wrong = (one for one in findings(there, missing) if one.severity is Severity.ERROR)
    found: dict[str, str] = {}
    for one in wrong:
        found.setdefault(one.path, one.text)
    return found


def _unready(runtime: Runtime, section: Cdi) -> str:
    """Why the runtime would not find a CDI device, "" if it would."""
    try:
        change = change_for(runtime, Wanted(directories_of(section)))
    except ImpossibleError as error:
        return f"{error}; {error.advice}" if error.advice else str(error)
    if change.text is not None:
        return f"it does not know CDI, {change.path} would have to say so; section runtimes of the node file writes it"
    return "its configuration changed and it has not been restarted since" if runtime.owed else ""


def _kubelet(files: Files) -> tuple[int | None, bool, str]:
    """Devices it can hand out, whether it is there, and why it does not answer."""
    if not files.exists(paths.KUBELET_POD_RESOURCES):
        return None, False, ""
    try:
        from nodeagent.kubernetes.pod_resources import KubeletPods  # noqa: PLC0415 - 12 MB, only beside a kubelet
    except ImportError as error:
        return None, True, f"{error.name} is missing; install nodeagent[kubernetes]"
    kubelet = KubeletPods(rooted(files.root, paths.KUBELET_POD_RESOURCES))
    try:
        return kubelet.read().allocatable_gpus, True, ""
    except HostError as error:
        return None, True, error.reason
    finally:
        kubelet.close()


def cufile_problem(text: str | None) -> str:
    """What is wrong with a cufile.json, which has comments as C++ has them; none at all means the defaults."""
    if text is None:
        return ""
    try:
        document = json.loads(_COMMENT.sub(lambda found: found[1] or "", text))
    except json.JSONDecodeError as error:
        return f"{paths.CUFILE_CONFIG}:{error.lineno}: {error.msg.lower()}"
    return "" if isinstance(document, dict) else f"{paths.CUFILE_CONFIG} is no JSON object"


def wanted(facts: Facts, choice: Round) -> Iterator[Trial | Finding]:
    """What is to be tried, and what is known without; pure."""
    looks: Mapping[Proof, Callable[[Facts], Iterable[Finding]]] = {
        Proof.DRIVER: checks.driver,
        Proof.PEERMEM: checks.peermem,
        Proof.OFED: checks.ofed,
        Proof.TOOLKIT: checks.toolkit,
        Proof.PLUGIN: checks.plugin,
    }
    beside = {Proof.GDRCOPY: (checks.gdrcopy, Work.GDRCOPY), Proof.GDS: (checks.gds, Work.GDS)}
    for proof in Proof:
        if proof not in choice.proofs:
            continue
        if proof in looks:
            yield from looks[proof](facts)
        elif proof in beside:
            check, work = beside[proof]
            yield check(facts) or Trial(work)
        elif proof is Proof.CUDA:
            yield from trials.cuda(facts, in_use=choice.in_use)
        elif proof is Proof.P2P:
            yield from trials.p2p(facts, in_use=choice.in_use)


def prove(host: Host, facts: Facts, choice: Round, *, simulated: bool) -> Validation:
    """One round."""
    tries = [*wanted(facts, choice)]
    if Proof.GPUDIRECT in choice.proofs:
        tries += gpudirect(host.files, facts, simulated=simulated, in_use=choice.in_use)
    found = make(host.cuda, tries, choice.deadline_seconds)
    if Proof.RDMA in choice.proofs:
        found += tuple(rdma(host.files, facts.state, simulated=simulated))
    return concluded(found)


def concluded(found: Sequence[Finding]) -> Validation:
    """The findings of a round that has just ended, in the order of proofs."""
    return merged(Validation(), Validation(tuple(found), time.time()))


def merged(old: Validation, new: Validation) -> Validation:
    """The newer findings of each proof, in the order of proofs; `at` is that of the newer round."""
    proofs = {finding.proof for finding in new.findings}
    kept = [finding for finding in old.findings if finding.proof not in proofs]
    order = list(Proof)
    return replace(new, findings=tuple(sorted((*kept, *new.findings), key=lambda one: order.index(one.proof))))
