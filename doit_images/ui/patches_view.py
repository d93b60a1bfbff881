"""``doit advise --patch``, ``--prove``, ``--apply``: better Dockerfiles, as patches, proved and written."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence

from doit_images.advise import rules
from doit_images.advise.durations import done_builds
from doit_images.advise.gain import Gain, gains
from doit_images.advise.patch import difference
from doit_images.advise.proof import Proof, Verdict
from doit_images.advise.proposals import Mode, Proposal, Proposals
from doit_images.ci.commits import WorkingCopy
from doit_images.core.base import files
from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import seconds_text
from doit_images.core.run import Run
from doit_images.ui import patches_page
from doit_images.ui.patches_page import Shown

_SHOWN = 10  # paths


def show(run: Run, words: Sequence[str], commits: int, mode: Mode, *, as_json: bool) -> None:
    """Print what would make the Dockerfiles of the images that ``words`` name (default: all) better, by the rules that
    they name (default: all), each patch on top of those before it, and what came of proving it. Then what all the good
    ones would have saved over so many ``commits``. Raises ``UserError``, also where a file that would be written is not
    as the commit has it."""
    proposals, found = Proposals(run, mode), list[Proposal]()
    for proposal in proposals.of([word for word in words if word not in rules.NAMES], words):
        found.append(proposal)
        if not as_json:
            _print(proposal)
    for name in proposals.write() if mode is Mode.APPLY else ():
        print(f"wrote {name}", file=sys.stderr)
    saved, unknown = _saved(proposals, commits)
    if as_json:
        told = {
            name: {
                "commits": one.commits,
                "unknown": one.unknown,
                "before": one.before._asdict(),
                "after": one.after._asdict(),
            }
            for name, one in saved.items()
        }
        print(json.dumps({"patches": [_data(each) for each in found], "saved": told}, indent=2))
    elif not found:
        print("no patch is known that would make these Dockerfiles better")
    for name, one in ({} if as_json else saved).items():
        print(f"{name}: {gain_sentence(one)}")
    if found and not as_json:
        path = run.folder / "advise.html"
        told_of = {name: (one, gain_sentence(one)) for name, one in saved.items()}
        files.write(path, patches_page.page(run.project.name, [_shown(each) for each in found], told_of), 0o600)
        print(f"page: {path}", file=sys.stderr)
    if unknown:
        print(f"what these patches would have saved is not known: {unknown}", file=sys.stderr)


def _saved(found: Proposals, commits: int) -> tuple[dict[str, Gain], str]:
    """What each image's patches would have saved, or why that cannot be told."""
    run = found.run
    if not found.replayed:
        return {}, ""
    try:
        copy = WorkingCopy(run.files, run.environ, run.common)
        return gains(copy, commits, found.replayed, lambda name: done_builds(run.history, name), found.ignores), ""
    except UserError as error:
        return {}, str(error)


def gain_sentence(gain: Gain) -> str:
    """What was saved, in words.

    >>> gain_sentence(Gain(60, Work(52, 2132.0), Work(3, 123.0), 0))
    'in the last 60 commits 3 RUN steps would have run instead of 52: 2 min 3 s instead of 35 min 32 s'
    """
    before, after = gain.before, gain.after
    if not gain.commits:
        return "there is no commit before HEAD that could tell what this would have saved"
    last = f"in the last {gain.commits} commits"
    if after.runs == before.runs:
        return f"{last} as many RUN steps would have run ({before.runs})"
    took = f": {seconds_text(after.seconds)} instead of {seconds_text(before.seconds)}" if before.seconds else ""
    unknown = f" ({gain.unknown} of them never ran here, so how long they take is not known)" if gain.unknown else ""
    return f"{last} {after.runs} RUN steps would have run instead of {before.runs}{took}{unknown}"


def _shown(proposal: Proposal) -> Shown:
    patch = proposal.patch
    return Shown(
        f"{proposal.dockerfile}:{patch.line}: {patch.rule}: {patch.why}",
        [
            *(f"{name}: {_sentence(each)}" for name, each in proposal.proofs.items()),
            *(
                f"{name}: copies {', '.join(some)} itself, which the proof left as it was"
                for name, some in proposal.read.items()
            ),
        ],
        "".join(difference(before, after, name) for name, (before, after) in proposal.changes.items()),
    )


def _print(proposal: Proposal) -> None:
    shown = _shown(proposal)
    print(f"{shown.title}\n\n{shown.difference}", *shown.proofs, sep="\n")


def _sentence(of: Proof) -> str:
    shown = ", ".join(of.differs[:_SHOWN])
    more = f" and {len(of.differs) - _SHOWN} more" if len(of.differs) > _SHOWN else ""
    if of.verdict == Verdict.FAILS:
        return f"cannot be built with it: {shown}"
    if of.verdict == Verdict.DIFFERS:
        return f"would be another image: {shown}{more}"
    if of.verdict == Verdict.NOT_PROVED:
        return f"not proved, for without the patch it is another image each time: {shown}{more}"
    unsteady = f"; {len(of.unsteady)} files differ from build to build anyway" if of.unsteady else ""
    if of.verdict == Verdict.SAME_BUT:
        told = [f"its test `{name}` {said}" for name, said in of.tests.items()]
        tests = ", ".join(told) or "it has no test here that might miss it"
        gone = [f"{count} paths are gone, {why}" for why, count in Counter(of.removed.values()).items()]
        return f"stays the same, file by file, but for what the patch removes: {'; '.join(gone)}{unsteady}; {tests}"
    return f"stays the same, file by file{unsteady}"


def _data(proposal: Proposal) -> dict[str, object]:
    proofs = {name: each._asdict() for name, each in proposal.proofs.items()}
    changed = {name: after for name, (_, after) in proposal.changes.items()}
    patch = {name: value for name, value in vars(proposal.patch).items() if name != "others"}
    return {"dockerfile": proposal.dockerfile, **patch, "files": changed, "proofs": proofs, "read": proposal.read}
