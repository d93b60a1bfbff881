"""What does a commit hold, as a checkout of it would?

Read from git's objects; nothing is checked out but links and the few small files that others read by their paths
(``put``, which is git's own way to do it, attributes and all). What a checkout would hold is computed: permission bits
by the umask, and of files that attributes change on their way out (``eol``, ``ident``, ``filter``,
``working-tree-encoding``) what git writes for them. Git LFS's pointers stay pointers.

Of a submodule whose objects are here the commit's content counts; of another one only that it moved (``absent``). Of
``.git``, which a build may copy too, a commit knows its own name, so that counts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.inputs.contents import RECORD
from doit_images.core.inputs.tree import FileIndex, Folder

_BLOCK = 1 << 20
# No hook of the user's runs, and no pointer is replaced by what it points to, which may have to be fetched.
_PLAIN = ("core.hooksPath=/dev/null", "core.fsmonitor=false", "filter.lfs.smudge=", "filter.lfs.process=",
          "filter.lfs.required=false")  # fmt: skip
_ATTRIBUTES = ("eol", "ident", "filter", "working-tree-encoding")


class Source(NamedTuple):
    """A commit in a git repository, and where in the whole it would be checked out (``lib/`` for a submodule)."""

    git_dir: Path
    commit: str
    prefix: str = ""

    def git(self, *words: str, stdin: bytes | None = None, at: tuple[Path, Path] | None = None) -> commands.Done:
        """Run git on it; ``at`` an index file and a folder to write files to."""
        argv = ["git", *(part for setting in _PLAIN for part in ("-c", setting)), f"--git-dir={self.git_dir}"]
        if not at:
            return commands.run([*argv, *words], stdin=stdin)
        environ = {**os.environ, "GIT_INDEX_FILE": str(at[0])}
        return commands.run([*argv, f"--work-tree={at[1]}", *words], stdin=stdin, cwd=at[1], env=environ)


class GitEntry(NamedTuple):
    """What lies at one path: ``mode`` as ``st_mode`` of a checkout, the object that says what it holds ("" for a
    folder), and where that is from."""

    mode: int
    oid: str = ""
    source: Source | None = None


class Commit:
    """One commit, as if it were checked out at ``root``, a real path; ``before`` is the commit that was read there
    before; what both have in common is kept. ``UserError`` where an object is not here."""

    def __init__(self, source: Source, root: Path, before: Commit | None = None) -> None:
        self.source, self.root = source, root
        self.absent: dict[str, str] = {}
        """The submodules whose objects are not here: path and commit."""
        self._digests: dict[str, bytes] = before._digests if before else {}
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._folders: dict[str, dict[str, GitEntry]] = {"": {}}
        self._indexes: dict[Source, Path] = {}
        self._converted: dict[str, bytes] = {}
        self._there: set[str] = set()
        self._list(source)
        self._literal(".git/HEAD", f"{source.commit}\n")
        if before:
            self._take_over(before)
        self.put(path for path, entry in self.walk("") if stat.S_ISLNK(entry.mode))

    def entry(self, path: str) -> GitEntry | None:
        """What lies at a path, which no link is followed to."""
        folder, _, name = path.rpartition("/")
        return self._folders.get(folder, {}).get(name) if path else GitEntry(stat.S_IFDIR)

    def walk(self, folder: str) -> Iterator[tuple[str, GitEntry]]:
        """All that lies in and below a folder."""
        pending = [folder] if folder in self._folders else []
        while pending:
            here = pending.pop()
            for name, entry in self._folders[here].items():
                path = f"{here}/{name}" if here else name
                yield path, entry
                if stat.S_ISDIR(entry.mode):
                    pending.append(path)

    def inside(self, path: str | Path) -> str | None:
        """The path in the commit that an absolute one means, links followed; None for one outside of it."""
        real = os.path.realpath(path)
        if real == str(self.root):
            return ""
        return real.removeprefix(f"{self.root}/") if real.startswith(f"{self.root}/") else None

    def digest_of(self, place: str) -> str:
        """One digest over what lies at and below an absolute path: names, modes and objects, of a link also what it
        leads to, and the files that say how objects are written. What the commit does not have is always the same."""
        total = hashlib.sha256()
        seen: set[str] = set()
        attributes = (f"{folder}/.gitattributes".removeprefix("/") for folder in self._folders)
        todo = [*(path for path in attributes if self.entry(path)), self.inside(place)]
        while todo:
            path = todo.pop()
            entry = None if path is None or path in seen else self.entry(path)
            if path is None or entry is None:
                continue
            seen.add(path)
            told = f"{path}\0{entry.mode:o} {entry.oid} {self.absent.get(path, '')}\0"
            total.update(os.fsencode(told))
            if stat.S_ISLNK(entry.mode):
                todo.append(self.inside(self.root / path))
            todo += [f"{path}/{name}".removeprefix("/") for name in sorted(self._folders.get(path, ()))]
        return total.hexdigest()

    def put(self, paths: Iterable[str]) -> None:
        """Write these files and links to where a checkout has them; what is no such thing is passed over."""
        entries = {path: entry for path in paths if path not in self._there and (entry := self.entry(path))}
        self._there.update(entries)
        for source, some in _by_source(entries).items():
            names = b"\0".join(os.fsencode(path[len(source.prefix) :]) for path in some)
            self._with_index(source, "checkout-index", "-f", "-z", "--stdin", stdin=names)

    def make_folder(self, path: str) -> None:
        """Let a folder of the commit be there, without what it holds."""
        if path in self._folders and path not in self._there:
            self._there.add(path)
            (self.root / path).mkdir(parents=True, exist_ok=True)

    def read(self, folders: Iterable[str]) -> None:
        """Learn what all files in and below these folders hold, in one go."""
        wanted = dict(pair for folder in folders for pair in self.walk(folder))
        for source, some in _by_source(wanted).items():
            plain = [path for path, entry in some.items() if stat.S_ISREG(entry.mode) and path not in self._converted]
            changing = self._changing(source, plain)
            self.put(changing)
            for path in changing:
                self._converted[path] = hashlib.sha256((self.root / path).read_bytes()).digest()
            oids = dict.fromkeys(entry.oid for path, entry in some.items() if path not in self._converted)
            _hash(source, [oid for oid in oids if oid not in self._digests], self._digests)

    def _changing(self, source: Source, paths: Sequence[str]) -> list[str]:
        """The files that do not come out of git as they are in it."""
        said = source.git("config", "-z", "--get-regexp", r"^core\.(autocrlf|eol|attributesfile)$").stdout
        given = dict(line.split("\n", 1) for line in said.split("\0") if "\n" in line)
        if given.get("core.autocrlf", "").lower() == "true" or given.get("core.eol", "").lower() == "crlf":
            return list(paths)
        own = any(".gitattributes" in entries for entries in self._folders.values())
        if not own and "core.attributesfile" not in given and not (source.git_dir / "info/attributes").exists():
            return []
        names = b"\0".join(os.fsencode(path[len(source.prefix) :]) for path in paths)
        answer = self._with_index(source, "check-attr", "--cached", "-z", "--stdin", *_ATTRIBUTES, stdin=names)
        fields = os.fsdecode(answer.output).split("\0")
        triples = zip(fields[::3], fields[1::3], fields[2::3], strict=False)
        return list(dict.fromkeys(source.prefix + path for path, name, value in triples if _changes(name, value)))

    def folder(self, path: str) -> Folder | None:
        """The listing of a folder, with the digests of all that it holds; None where there is no such folder."""
        entries = self._folders.get(path)
        if entries is None:
            return None
        prefix = f"{path}/" if path else ""
        if any(self._digest(prefix + name, entry) is None for name, entry in entries.items()):
            self.read([path])
        names = sorted(entries)
        rows = [(name, entries[name].mode, RECORD.pack(0, 0, 0, 0, entries[name].mode)) for name in names]
        listing = Folder(f"{self.root}/{path}" if path else str(self.root), rows)
        digests = (self._digest(prefix + name, entries[name]) or bytes(32) for name in names)
        listing.recall(listing.stamps(), b"".join(digests))
        return listing

    def _digest(self, path: str, entry: GitEntry) -> bytes | None:
        if stat.S_ISDIR(entry.mode):
            return bytes(32)
        return self._converted.get(path) or self._digests.get(entry.oid)

    def _list(self, source: Source) -> None:
        """Add what the tree of a commit holds, at and below its own place."""
        listed = source.git("ls-tree", "-r", "-t", "-z", "--full-tree", source.commit)
        listed.checked(f"git cannot list {source.commit[:12]}")
        modes = {b"040000": stat.S_IFDIR | 0o777 & ~self._umask, b"120000": stat.S_IFLNK | 0o777}
        modes |= {b"100644": stat.S_IFREG | 0o666 & ~self._umask, b"100755": stat.S_IFREG | 0o777 & ~self._umask}
        modes |= {b"100664": modes[b"100644"], b"160000": modes[b"040000"]}
        modules: list[tuple[str, str]] = []
        for line in listed.output.split(b"\0")[:-1]:
            what, _, name = line.partition(b"\t")
            kind, _, child = what.split(b" ")
            path = source.prefix + os.fsdecode(name)
            if kind in (b"040000", b"160000"):
                self._add(path, GitEntry(modes[kind]))
            else:
                self._add(path, GitEntry(modes[kind], child.decode(), source))
            if kind == b"160000":
                modules.append((path, child.decode()))
        if modules:
            self._submodules(source, modules)

    def _submodules(self, source: Source, modules: Sequence[tuple[str, str]]) -> None:
        blob = f"{source.commit}:.gitmodules"
        said = source.git("config", "--blob", blob, "-z", "--get-regexp", r"^submodule\..*\.path$")
        pairs = (line.partition("\n") for line in os.fsdecode(said.output).split("\0") if line)
        names = {source.prefix + path: key[len("submodule.") : -len(".path")] for key, _, path in pairs}
        common = os.fsdecode(source.git("rev-parse", "--path-format=absolute", "--git-common-dir").output).rstrip("\n")
        for path, commit in modules:
            place = f"modules/{names.get(path, path)}"
            found = (folder / place for folder in (source.git_dir, Path(common)))
            here = next((Source(folder, commit, f"{path}/") for folder in found if folder.is_dir()), None)
            if here and not here.git("cat-file", "-e", f"{commit}^{{commit}}").status:
                self._list(here)
                inner = os.path.relpath(f"{source.prefix}.git/{place}", path)
                self._literal(f"{path}/.git", f"gitdir: {inner}\n")
            else:
                self.absent[path] = commit

    def _take_over(self, before: Commit) -> None:
        """Remove from the disk what this commit has not, or has otherwise: also where its attributes are others."""
        attributes = [
            {folder: entries.get(".gitattributes") for folder, entries in commit._folders.items()}
            for commit in (before, self)
        ]
        same = [{folder: entry for folder, entry in some.items() if entry} for some in attributes]
        for path in sorted(before._there):
            mine, other = self.entry(path), before.entry(path)
            if same[0] == same[1] and mine and other and mine.mode == other.mode and mine.oid == other.oid:
                self._there.add(path)
            elif (self.root / path).is_dir() and not (self.root / path).is_symlink():
                shutil.rmtree(self.root / path)
            else:
                (self.root / path).unlink(missing_ok=True)
        self._there = {path for path in self._there if os.path.lexists(self.root / path)}

    def _add(self, path: str, entry: GitEntry) -> None:
        folder, _, name = path.rpartition("/")
        self._folders[folder][name] = entry
        if stat.S_ISDIR(entry.mode):
            self._folders[path] = {}

    def _literal(self, path: str, text: str) -> None:
        """A file that no object holds, with the folder that it lies in."""
        oid = f"text {text}"
        self._digests[oid] = hashlib.sha256(text.encode()).digest()
        above = path.rpartition("/")[0]
        if above not in self._folders:
            self._add(above, GitEntry(stat.S_IFDIR | 0o777 & ~self._umask))
        self._add(path, GitEntry(stat.S_IFREG | 0o666 & ~self._umask, oid))

    def _with_index(self, source: Source, *words: str, stdin: bytes) -> commands.Done:
        """Run git where it finds the commit's files in an index, so that the attributes are the commit's."""
        work = self.root / source.prefix
        work.mkdir(parents=True, exist_ok=True)
        index = self.root.with_name(f"{source.commit}-{len(self._indexes)}.index")
        if source not in self._indexes:
            source.git("read-tree", source.commit, at=(index, work)).checked("git cannot read the commit")
        at = (self._indexes.setdefault(source, index), work)
        return source.git(*words, stdin=stdin, at=at).checked("git cannot read a file of the commit")


class CommitIndex(FileIndex):
    """A look at a commit in place of the disk; what lies outside of it is looked up there."""

    def __init__(self, commit: Commit) -> None:
        super().__init__()
        self._commit = commit

    def folder(self, path: str) -> Folder:
        """The listing of a folder at an absolute, real path, which is the commit's where it lies in it."""
        known = self._folders.get(path)
        if known is None and f"{path}/".startswith(f"{self._commit.root}/"):
            known = self._commit.folder(path[len(str(self._commit.root)) + 1 :])
            if known:
                self._folders[path] = known
        return known or super().folder(path)


def _by_source(entries: Mapping[str, GitEntry]) -> dict[Source, dict[str, GitEntry]]:
    """The files and links among these, by where git has them."""
    found: dict[Source, dict[str, GitEntry]] = {}
    for path, entry in entries.items():
        if entry.source:
            found.setdefault(entry.source, {})[path] = entry
    return found


def _changes(attribute: str, value: str) -> bool:
    """Whether a file with this attribute is written otherwise than git has it, on a machine whose lines end with LF."""
    if attribute == "eol":
        return value == "crlf"
    if attribute == "filter":
        return value not in ("unspecified", "unset", "lfs")
    return value not in ("unspecified", "unset")


def _hash(source: Source, oids: Sequence[str], digests: dict[str, bytes]) -> None:
    """Add the sha256 of what each of these objects holds, one block of it at a time."""
    if not oids:
        return
    with tempfile.TemporaryFile() as wanted:
        wanted.write("".join(f"{oid}\n" for oid in oids).encode())
        wanted.seek(0)
        argv = ["git", f"--git-dir={source.git_dir}", "cat-file", "--batch", "--buffer"]
        with commands.start(argv, stdin=wanted, stderr=commands.DEVNULL) as process:
            if process.stdout is None:
                raise AssertionError("it is a pipe")
            with open(process.stdout.fileno(), "rb", closefd=False) as answer:
                for oid in oids:
                    digests[oid] = _read_one(answer, oid)


def _read_one(answer: IO[bytes], oid: str) -> bytes:
    _, kind, size = [*answer.readline().split(), b"", b""][:3]
    if kind != b"blob":
        raise UserError(f"git does not have the object {oid}", remedy="fetch it: a clone may be shallow or partial")
    digest, left = hashlib.sha256(), int(size)
    while left and (block := answer.read(min(left, _BLOCK))):
        digest.update(block)
        left -= len(block)
    answer.read(1)  # the end of the line
    return digest.digest()
