"""Tasks that build, share, run and measure the Docker images of a Compose project."""

import resource
import signal
import sys

# Ctrl-C ends doit without a word also before its run begins, when `base.commands` hears it: Python would print where it
# was. In doit's own process only: pytest, which imports us too, has its own way. doitw blocks it until here.
if "doit.doit_cmd" in sys.modules and "pytest" not in sys.modules:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    # Nor does a crash, or Ctrl-\, leave the memory of a process with secrets on the disk: we, and what we start, write
    # no core dump. 1 and not 0: a program that collects them (`core_pattern`) gets them also where it is 0.
    _hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (1 if _hard else 0, _hard))

if sys.dont_write_bytecode:
    from importlib.machinery import FileFinder, SourceFileLoader
    from pathlib import Path
    from types import CodeType

    _HERE = str(Path(__file__).parent)
    # `base.memory.OWN_FOLDER`, which cannot be imported yet.
    _COMPILED = str(Path(__file__).resolve().parent.parent / ".doit-images" / "pycache")
    _USUAL = sys.pycache_prefix

    class _Loader(SourceFileLoader):
        """Keeps these modules compiled in a folder that ignores itself. Nobody wants __pycache__ in this tree, but to
        compile them in each run would take longer than all that a run with nothing to do does (0.07 s of 0.23 s).
        What other modules leave is as the user wants it."""

        def get_code(self, fullname: str) -> CodeType | None:
            sys.pycache_prefix, sys.dont_write_bytecode = _COMPILED, False
            try:
                return super().get_code(fullname)
            finally:
                sys.pycache_prefix, sys.dont_write_bytecode = _USUAL, True

    def _finder(folder: str) -> FileFinder:
        if folder != _HERE and not folder.startswith(f"{_HERE}/"):
            raise ImportError
        return FileFinder(folder, (_Loader, [".py"]))

    sys.path_hooks.insert(0, _finder)
