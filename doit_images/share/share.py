"""Which finished images do machines give each other?

With ``CACHE_REGISTRY`` an image is pushed as ``<registry>/<repository>:in-<fingerprint>``, and every machine that
computes that fingerprint may pull it instead of building it, if its labels say that it was made from just that
(``plan``). A registry that is down, slow, full or refuses makes a run slower, never wrong: it is said once. One answer
that fails costs one image; only a registry that fails time after time is left alone for the rest of the run, and who
may not push still pulls. Whose results are taken, ``trusted`` says: what is not signed as it must be counts as not
being there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from doit_images.core.base.errors import UserError
from doit_images.core.base.settings import Settings
from doit_images.core.engine import temporary_tag
from doit_images.core.engine.client import Engine, Gone, LocalImage
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.shared_image import SharedImage, SharedRef, shared_refs_of
from doit_images.share import reaching, signatures, travel, trusted
from doit_images.share.circuit_breaker import CircuitBreaker, HealthCheck
from doit_images.share.index import ResultIndex
from doit_images.share.no_answer import NoImage, Unavailable
from doit_images.share.redis_client import RedisClient
from doit_images.share.signing import IMAGES, NotSigned

if TYPE_CHECKING:
    from doit_images.share.index import Remembered
    from doit_images.share.registry import Registry
    from doit_images.share.transfer import Whole

_AT_ONCE = 24  # requests side by side, each on a connection that is kept


class Share:
    """The shared registry as one run uses it; ``address`` "" is none.

    ``write`` is whether images may be pushed, ``say`` tells people what goes wrong with the registry, once, ``trust``
    whose results count. Its methods raise ``commands.Stopped``, and ``UserError`` where it is the engine that refuses
    or does not answer.
    """

    def __init__(
        self, address: str, *, write: bool, say: Callable[[str], None], trust: trusted.Trust = trusted.EVERYBODY
    ) -> None:
        self.address = address
        self.trust = trust
        self._doubted: dict[tuple[str, str], SharedImage] = {}  # what is there, and not signed as it must be
        self._write = write
        self._say = say
        self._known: dict[tuple[str, str], SharedImage | None] = {}
        self._failed: dict[str, bool] = {}  # digests that could not be pulled, and whether the image is what is wrong
        self._looks, self._pulls, self._pushes = (CircuitBreaker(most) for most in (3, 2, 2))
        self._health = HealthCheck(lambda seconds: self.registry.client.ping(seconds), self._tell_gone)
        self.tests = CircuitBreaker(1)
        """Opens where the results of tests cannot be had or given (``ci.results``)."""
        self._said: set[str] = set()
        self._index, self._index_seconds = ResultIndex(RedisClient("", say)), 0.0
        self._direct: set[tuple[str, str]] = set()  # what the registry itself is to be asked about
        self._indexed: set[tuple[str, str]] = set()  # what is known from the index only
        self._recalled: set[tuple[str, str]] = set()  # what is known from a run before only
        self.patience = 60.0
        """Seconds that a busy registry may ask for in a run."""
        self.memory: Remembered | None = None
        """What earlier runs knew, if that is kept."""
        self._lock = threading.Lock()

    @cached_property
    def registry(self) -> Registry:
        """Its client."""
        from doit_images.share.registry import Registry  # builds without a registry need none

        registry = Registry(self.address, insecure=insecure)
        registry.client.patience = self.patience
        if self.memory:
            registry.known.update(self.memory.digests())
        return registry

    @cached_property
    def _travel(self) -> travel.Travel:
        return travel.Travel(self.registry, self._health)

    def ask_first(self, index: ResultIndex, seconds: float) -> None:
        """From now on ask the index before the registry, whose answers are kept there for so long."""
        self._index, self._index_seconds = index, seconds

    @property
    def reads(self) -> bool:
        """Whether there is a registry, and it gives what it has, as far as that was tried."""
        able = bool(self.address) and self.trust is not trusted.NOBODY
        able = able and not self._health.gone and not self._pulls.open
        return able and not (self._looks.open and not any(self._known.values()))

    @property
    def writes(self) -> bool:
        """Whether images may be pushed."""
        return self.writes_of(IMAGES)

    def writes_of(self, about: str) -> bool:
        """Whether results of this kind (``signing``) may be pushed."""
        able = self._write and self.reads and not self._looks.open and not self._pushes.open
        return able and not self.trust.cannot_sign_of(about)

    def offers(self, inputs: Mapping[str, ImageInputs], platform: str) -> dict[str, SharedImage]:
        """What the registry holds for these images, by name; ``platform`` is the engine's."""
        return self.look(shared_refs_of(inputs, platform))

    def look(self, refs: Mapping[str, SharedRef]) -> dict[str, SharedImage]:
        """Which of these images the registry holds under their fingerprints, asked side by side, once in a run."""
        if todo := self.unasked(refs):
            self._learn(todo)
        if not self.reads:
            return {}
        return {name: shared_image for name, image in refs.items() if (shared_image := self._known.get(image.key))}

    def unasked(self, refs: Mapping[str, SharedRef]) -> dict[str, SharedRef]:
        """Those of these images that ``look`` would have to ask about, which takes its time."""
        if not self.reads or self._looks.open:
            return {}
        return {name: image for name, image in refs.items() if image.key not in self._known}

    def remembered(self, refs: Mapping[str, SharedRef]) -> dict[str, SharedImage]:
        """What earlier runs were told of these images, if that was lately, and of all of them; none once this run asked
        about one. Enough to know by what is built on them, not to act on: ``pull`` asks the registry first."""
        keys = {image.key for image in refs.values()}
        if not (self.memory and self.reads) or any(key in self._known or key in self._direct for key in keys):
            return {}
        recent = self.memory.recent({self._name(key) for key in keys})
        images = {name: image for name, each in refs.items() if (image := self._recall(each, recent))}
        return images if len(images) == len(refs) else {}

    def forget(self, shared_ref: SharedRef) -> None:
        """Ask again about an image, the registry itself: another machine may have pushed it since."""
        self._known.pop(shared_ref.key, None)
        self._direct.add(shared_ref.key)

    def gone(self, path: str, tags: Iterable[str]) -> None:
        """The registry does not hold these any more, whatever the index says."""
        for tag in tags:
            self._known.pop((path, tag), None)
            self._index.drop(self._name((path, tag)))

    def _learn(self, todo: Mapping[str, SharedRef]) -> None:
        """Get to know of these images what the index knows, and else what the registry answers."""
        from concurrent.futures import ThreadPoolExecutor  # builds without a registry need none

        names = {image.key: self._name(image.key) for image in todo.values()}
        asked = [name for key, name in names.items() if key not in self._direct]
        indexed = self._index.shared(asked)
        self._recalled.difference_update(names)
        self.registry.client.expect(image.path for image in todo.values())
        with ThreadPoolExecutor(min(_AT_ONCE, len(todo))) as pool:
            answers = pool.map(lambda image: self._ask(image, indexed.get(names[image.key])), todo.values())
            for image, shared_image in zip(todo.values(), answers, strict=True):
                self._known[image.key] = shared_image
        self._indexed |= {key for key, name in names.items() if name in indexed}
        # Another thread may have forgotten one of them meanwhile.
        sure = {name: self._known.get(key) for key, name in names.items() if key not in self._recalled}
        held = {name: known for name, known in sure.items() if known}
        if self.memory and held:
            self.memory.keep(held)
        if self._write:
            fresh = {name: known for name, known in held.items() if known != indexed.get(name)}
            self._index.keep_shared(fresh, self._index_seconds)

    def gives(self, shared_image: SharedImage) -> bool:
        """Whether nobody has tried in vain to pull this in this run."""
        return shared_image.digest not in self._failed

    def pull(self, shared_ref: SharedRef, shared_image: SharedImage, engine: Engine, layout: Path | None = None) -> str:
        """Let the engine fetch an image by its digest; returns a reference to it there, "" if that failed. Of several
        platforms it fetches all, or, where a ``layout`` is to hold them, its own."""
        if shared_ref.key in self._recalled and not self._still(shared_ref, shared_image):
            return ""
        ref = f"{self.address}/{shared_ref.path}@{shared_image.digest}"
        temporary_tag.borrow(engine, ref)
        problem = self._travel.fetch(shared_ref, shared_image, engine, layout)
        if not problem:
            self._pulls.good()
            return ref
        temporary_tag.give_back(engine, ref)
        damaged = travel.damaged(problem)
        if not damaged and self._health.fails():
            return ""
        if shared_ref.key in self._indexed:  # the registry may have another by now
            self._indexed.discard(shared_ref.key)
            self.forget(shared_ref)
            if self._write:
                self._index.drop(self._name(shared_ref.key))
            return ""
        self._known[shared_ref.key] = None
        self._failed[shared_image.digest] = damaged
        if not damaged and self._pulls.bad():
            self._tell(f"does not give what it has ({problem})", "images are built here instead")
        else:
            what = f"`{shared_ref}` cannot be pulled from {self.address}"
            self._say(f"{what}, so this machine does without: {problem}")
        return ""

    def _still(self, shared_ref: SharedRef, shared_image: SharedImage) -> bool:
        """Whether the registry still holds what an earlier run was told: by now there may be another, or none."""
        self._recalled.discard(shared_ref.key)
        self.forget(shared_ref)
        now = self.look({"": shared_ref}).get("")
        return now is not None and now.digest == shared_image.digest

    def refuse(self, shared_ref: SharedRef, why: str) -> None:
        """What was pulled is not taken: it is built here instead."""
        shared_image, self._known[shared_ref.key] = self._known.get(shared_ref.key), None
        if shared_image:
            self._failed[shared_image.digest] = True
        self._say(f"`{shared_ref}` of {self.address} is not taken, but built here: {why}")

    def push(
        self,
        shared_ref: SharedRef,
        local_image: LocalImage,
        engine: Engine,
        also: Iterable[str] = (),
        whole: Whole | None = None,
    ) -> SharedImage | None:
        """Push an image of the engine, or a ``whole`` one, under the tags ``also`` too; what the registry then has."""
        if not self.writes:
            return None
        content = ""
        if self.trust.need:
            content = whole.content if whole else engine.config_of(local_image.id).content
        # What is there already, but for the signature, is only signed.
        there = signatures.is_just(self._doubted.get(shared_ref.key), content, local_image)
        try:
            tags = (shared_ref.tag, *also)
            problem = "" if there else self._travel.send(shared_ref, local_image, engine, tags, whole)
        except Gone as error:
            self._say(f"`{shared_ref}` is not shared: {error}")
            return None
        if travel.stays(problem):
            self._tell(f"has tags that are immutable ({problem})", "what is there stays", once=True)
        elif problem:
            self._not_pushed(shared_ref, problem)
            return None
        self._pushes.good()
        self.forget(shared_ref)
        signed = self._signed(shared_ref, local_image, content) if self.trust.need else None
        return self.look({"": shared_ref}).get("") or signed

    def _not_pushed(self, shared_ref: SharedRef, problem: str) -> None:
        """What a push came to that came to nothing."""
        what = f"`{shared_ref}` could not be pushed to {self.address}: {problem}"
        if advice := travel.to_create(problem, self.address, self.registry.client.repository(shared_ref.path)):
            self._say(f"{what}: {advice}")  # other images have other repositories
        elif self._health.fails():
            return
        elif self._pushes.bad(at_once=travel.lasts(problem)):
            self._tell(f"takes nothing ({problem})", "results of this run are not shared")
        else:
            self._say(what)

    def _signed(self, shared_ref: SharedRef, local_image: LocalImage, content: str) -> SharedImage | None:
        """Sign what the registry holds, if it is what was built here: whoever may push may have pushed something else
        since. Returns it; None if it is not, or cannot be signed."""
        try:
            held = self.registry.image(shared_ref.path, shared_ref.tag, shared_ref.platform)
            if held is None or not signatures.is_just(held, content, local_image):
                return None
            bundle = self.trust.sign(held.digest, shared_ref.fingerprint, shared_ref.platform)
            signatures.give(self.registry, shared_ref.path, held.digest, bundle)
        except (Unavailable, NoImage) as error:
            if not self._health.fails():
                what = f"`{shared_ref}` could not be signed"
                self._say(f"{what}: the shared registry {self.address} {error}")
            return None
        except NotSigned as error:
            self._say(f"`{shared_ref}` could not be signed: {error}")
            return None
        return held

    def _name(self, key: tuple[str, str]) -> str:
        """What an image is called in an index."""
        return f"{self.address}/{key[0]}:{key[1]}"

    def _recall(self, shared_ref: SharedRef, known: Mapping[str, SharedImage] | None = None) -> SharedImage | None:
        """What the registry said of an image before, by default at any time, if that would be taken now."""
        name = self._name(shared_ref.key)
        if known is None:
            known = self.memory.ever([name]) if self.memory else {}
        image = known.get(name)
        if image is None or not self.gives(image) or self._judge(shared_ref, image, image.signatures.values())[1]:
            return None
        self._recalled.add(shared_ref.key)
        return image

    def _ask(self, shared_ref: SharedRef, indexed: SharedImage | None = None) -> SharedImage | None:
        if self._looks.open:
            return self._recall(shared_ref)
        try:
            shared_image, doubt = None, ""
            if indexed:
                shared_image, doubt = self._judge(shared_ref, indexed, indexed.signatures.values())
            # What the index says is checked alike, and where it does not do, the registry is asked.
            if shared_image is None or doubt:
                shared_image, doubt = self._held(shared_ref)
        except NoImage as error:
            self._say(f"`{shared_ref}` is built here: the shared registry {self.address} {error}")
            return None
        except Unavailable as error:
            at_first = error.silent and not self._looks.any_good
            if error.silent and not at_first and self._health.fails():
                return None
            if self._looks.bad(at_once=at_first):
                self._tell(str(error), "images are built here instead")
            elif not self._looks.open:
                self._tell(str(error), f"`{shared_ref}` is built here", once=True)
            return self._recall(shared_ref)
        self._looks.good()
        # What nobody can use is as good as none: a result of this machine may take its place.
        return None if doubt or (shared_image and self._failed.get(shared_image.digest)) else shared_image

    def _judge(self, shared_ref: SharedRef, image: SharedImage, bundles: Iterable[str]) -> tuple[SharedImage, str]:
        """An image with what speaks for it, and why it is not taken as what was asked for, "" if it is."""
        claimed = trusted.Claimed(image.digest, shared_ref.fingerprint, shared_ref.platform)
        doubt, good = self.trust.judge(claimed, bundles)
        return (replace(image, signatures=good) if self.trust.need else image), doubt

    def _held(self, shared_ref: SharedRef) -> tuple[SharedImage | None, str]:
        """What the registry holds, and why it is not taken. Raises ``Unavailable`` and ``NoImage``."""
        shared_image = self.registry.image(shared_ref.path, shared_ref.tag, shared_ref.platform)
        if shared_image is None or not self.trust.need:
            return shared_image, ""
        kept, doubt = self._judge(shared_ref, shared_image, shared_image.signatures.values())
        if not doubt:  # what was good once is not asked for again, but judged again
            return kept, ""
        attached = signatures.bundles(self.registry, shared_ref.path, shared_image.digest)
        shared_image, doubt = self._judge(shared_ref, shared_image, attached)
        if not doubt:
            self.registry.known[shared_image.digest] = shared_image
        else:
            self._doubted[shared_ref.key] = shared_image
            sentence = f"`{shared_ref}` of {self.address} is not taken: {doubt}"
            with self._lock:
                before, self._said = sentence in self._said, self._said | {sentence}
            if not before:
                self._say(sentence)
        return shared_image, doubt

    def _tell(self, what: str, so: str, *, once: bool = False) -> None:
        """Say what is wrong with the registry, and what follows; ``once``: not if it was wrong before."""
        with self._lock:
            before, self._said = what in self._said, self._said | {what}
        if not (once and before):
            self._say(f"the shared registry {self.address} {'is still failing' if before else what}: {so}")

    def _tell_gone(self) -> None:
        so = "images are built here instead, and not shared"
        self._say(f"the shared registry {self.address} does not answer any more: {so}")


def of(
    settings: Settings, say: Callable[[str], None], index: ResultIndex | None = None, memory: Remembered | None = None
) -> Share:
    """The shared registry by the settings, the ``index`` before it, with what earlier runs knew, if that is kept.
    Raises ``UserError`` for a list of trusted builders that is not one."""
    address = settings.cache_registry
    share = Share(
        address, write=settings.cache_write, say=say, trust=trusted.of(settings) if address else trusted.EVERYBODY
    )
    if share.trust is trusted.NOBODY:
        say(": ".join(trusted.undecided(address)))
    index, memory = (None, None) if settings.registry_only else (index, memory)  # it alone can say what it keeps
    if index and address:
        share.ask_first(index, settings.cache_ask)
    share.memory, share.patience = memory, settings.registry_patience
    if share.trust.need:
        share.trust.say = say
    return share


def insecure(host: str) -> bool:
    """Whether the engine takes this registry without TLS or with any certificate."""
    try:
        return reaching.insecure(host, Engine().info())
    except UserError:  # that the engine does not answer is told by whoever needs it
        return False
