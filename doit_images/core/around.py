"""What stands around the core and takes part in a run?

The core builds images on one machine and knows nobody else. Whoever composes a run (``doit_images.cli.process``) gives
it these parts: the machines that share results, and the base that the project makes itself. Without them it is alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from doit_images.core.compose.image import Image
    from doit_images.core.engine.client import Engine, ImageConfig, LocalImage
    from doit_images.core.inputs.image_inputs import ImageInputs
    from doit_images.core.planning.plan import Decision
    from doit_images.core.planning.shared_image import SharedImage, SharedRef


class Peers(Protocol):
    """The other machines that build this project: they give results, take results, and settle who builds what. No
    method raises for a registry or a Redis that fails: the run then goes on without it."""

    @property
    def results(self) -> Results:
        """What they share."""

    @property
    def leases(self) -> Leases:
        """How they settle who builds what."""

    @property
    def past_engine(self) -> PastEngine:
        """How a builder pushes its results itself."""

    def rebuilt(self, decision: Decision) -> int:
        """When another machine rebuilt this on purpose last, in seconds since the epoch; 0 if that is not known."""

    def give(self, decision: Decision, made: LocalImage, seconds: float) -> SharedImage | None:
        """Share what was built in so many seconds; the result of another machine that is to take its place, if any."""

    def seconds(self, fingerprints: Sequence[str]) -> Mapping[str, float]:
        """How long the builds of these fingerprints took elsewhere, where that is known."""


class Results(Protocol):
    """The results that machines share."""

    @property
    def reads(self) -> bool:
        """Whether results of other machines are looked for."""

    @property
    def writes(self) -> bool:
        """Whether results of this machine are given to others."""

    def look(self, refs: Mapping[str, SharedRef]) -> dict[str, SharedImage]:
        """The results that there are of these images, by the names given; asked about once in a run."""

    def unasked(self, refs: Mapping[str, SharedRef]) -> dict[str, SharedRef]:
        """Those images that ``look`` would have to ask about, which takes its time."""

    def remembered(self, refs: Mapping[str, SharedRef]) -> dict[str, SharedImage]:
        """What earlier runs were told of these images lately, if that is known of all of them."""

    def forget(self, shared_ref: SharedRef) -> None:
        """Ask again about an image: another machine may have given it since."""

    def pull(self, shared_ref: SharedRef, shared_image: SharedImage, engine: Engine, layout: Path | None = None) -> str:
        """Let the engine fetch a result, of several platforms into a ``layout``; a reference to it there, "" if that
        failed."""

    def refuse(self, shared_ref: SharedRef, why: str) -> None:
        """What was pulled is not what was promised: it is not asked for again."""


class Leases(Protocol):
    """Who builds what, of several machines that want the same at the same time."""

    @property
    def on(self) -> bool:
        """Whether there are others, which have answered so far."""

    def holds(self, what: str) -> bool:
        """Whether this process holds the lease with this name (``SharedRef.turn``)."""

    def acquire(
        self, what: str, waits: Callable[[str], None], expected: float | None = None
    ) -> AbstractContextManager[bool]:
        """The lease with this name for a block. ``waits`` hears who is waited for, and may raise; ``expected`` are
        the seconds that the build takes. Gives whether another had it first."""

    def watch(self, what: str, waits: Callable[[str], None], expected: float | None = None) -> bool:
        """Wait while another holds the lease with this name, without taking it. True where it had one that it has no
        more, or another has by now."""


class PastEngine(Protocol):
    """How results get from a dedicated builder into the registry and never into the engine (``BUILD_OUTPUT=registry``).
    Every method may raise ``UserError``."""

    def output(self, image: Image) -> list[str]:
        """The arguments by which a build pushes its result under the digest alone."""

    def parents_argv(self, inputs: ImageInputs) -> list[str]:
        """The contexts by which a build gets an image's parents from the registry."""

    def joined(self, image: Image, parts: Mapping[str, str]) -> str:
        """Make one index of what was pushed for each platform; its digest."""

    def check(self, decision: Decision) -> None:
        """Raise where a result could not be pushed, or would be of no use to anybody."""

    def named(self, decision: Decision, labels: Mapping[str, str], digest: str, seconds: float) -> LocalImage:
        """Give what was pushed, with these labels, the tag of its fingerprint; also raises ``InputsChanged``."""


class LocalBase(Protocol):
    """An external base that this project can make on this machine, as it is declared now. Methods may raise
    ``UserError``, and ``to_come`` also ``Unasked``."""

    @property
    def task(self) -> str:
        """The doit task that brings it."""

    @property
    def date(self) -> str:
        """The day that its packages are of (``2026-11-25``), "" where that is not known."""

    @property
    def renew(self) -> str:
        """The command that makes it of today's packages."""

    def stands_for(self, refs: Iterable[str]) -> bool:
        """Whether one of these references is it."""

    def held(self, platform: str = "") -> tuple[str, LocalImage] | None:
        """What the engine holds of it for a platform (the engine's own without), by its name there."""

    def counts(self, local_image: LocalImage | None, platform: str = "") -> bool:
        """Whether an image of the engine is the base that is wanted."""

    def made_here(self, local_image: LocalImage) -> bool:
        """Whether an image stands in for the base of that name, and was made on a machine of this project."""

    def to_come(self, asked: Sequence[str]) -> tuple[ImageConfig, ...] | None:
        """What is known of it for these platforms before it is here; None if not of all."""

    def bring(self) -> str:
        """See to it that the engine holds it, for each platform that is needed; what was done, "" for nothing."""

    def give(self) -> bool:
        """Let the other machines have it, where it was made here and they have none; whether anything was pushed."""


class Alone:
    """No other machine: nothing is shared, and nobody is waited for."""

    reads = writes = on = False

    @property
    def results(self) -> Results:
        """None."""
        return self

    @property
    def leases(self) -> Leases:
        """None."""
        return self

    @property
    def past_engine(self) -> PastEngine:
        """There is none: settings refuse ``BUILD_OUTPUT=registry`` without a registry."""
        raise ValueError("no registry to push to")

    def look(self, refs: Mapping[str, SharedRef]) -> dict[str, SharedImage]:
        """Nothing."""
        return {}

    def unasked(self, refs: Mapping[str, SharedRef]) -> dict[str, SharedRef]:
        """Nobody is asked."""
        return {}

    def remembered(self, refs: Mapping[str, SharedRef]) -> dict[str, SharedImage]:
        """Nothing."""
        return {}

    def forget(self, shared_ref: SharedRef) -> None:
        """Nobody is asked."""

    def pull(self, shared_ref: SharedRef, shared_image: SharedImage, engine: Engine, layout: Path | None = None) -> str:
        """Nothing comes."""
        return ""

    def refuse(self, shared_ref: SharedRef, why: str) -> None:
        """Nothing came."""

    def rebuilt(self, decision: Decision) -> int:
        """It is not known."""
        return 0

    def give(self, decision: Decision, made: LocalImage, seconds: float) -> SharedImage | None:
        """Nobody takes it."""
        return None

    def seconds(self, fingerprints: Sequence[str]) -> Mapping[str, float]:
        """Nothing is known."""
        return {}

    def holds(self, what: str) -> bool:
        """There are no leases."""
        return False

    def acquire(
        self, what: str, waits: Callable[[str], None], expected: float | None = None
    ) -> AbstractContextManager[bool]:
        """Nobody is waited for."""
        return nullcontext(enter_result=False)

    def watch(self, what: str, waits: Callable[[str], None], expected: float | None = None) -> bool:
        """Nobody is waited for."""
        return False
