"""``doit image_sizes``: what takes space in the images, standard against optimized, or as they are against what another
setting makes of them; as JSON, and as text for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import size_text
from doit_images.core.base.references import tag_of
from doit_images.core.engine.layers import Disk
from doit_images.core.run import Run
from doit_images.pruning.image_contents import Content, Measured, contents_of, measure_image
from doit_images.stack.standard import declared_both_ways

_WAYS = ("standard", "optimized")


def show(run: Run, names: Sequence[str], as_json: bool, setting: str) -> None:
    """Print the sizes of the images (all, or those named) that the engine holds, with their largest layers and files
    and what of them could be removed, to standard output. With a ``setting`` (``NAME=VALUE``) they are compared with
    the images that it makes of the same project."""
    wanted = [run.project.image(name).name for name in names] or list(run.project.images)
    pairs = _with_setting(run, setting) if setting else _both_ways(run)
    standard, optimized = (
        {name: image for name, refs in pairs.items() if (image := measure_image(run.engine, refs[at]))} for at in (0, 1)
    )
    shown = [image for way in (standard, optimized) for name, image in way.items() if name in wanted]
    if not shown:
        raise UserError("none of these images is in the engine", remedy="doit build")
    contents = contents_of(shown, run.folder / "sizes.json", run.environ, run.events.say)
    ways = ("as they are", setting) if setting else _WAYS
    report = as_data({name: pairs[name] for name in wanted}, standard, optimized, contents, ways)
    print(json.dumps(report, indent=2, ensure_ascii=False) if as_json else text(report))


def _both_ways(run: Run) -> dict[str, tuple[str, str]]:
    try:
        both_ways = declared_both_ways(run)
    except UserError:
        both_ways = {}  # sizes can be shown without anything to compare with
    return {name: both_ways.get(name, ("", image.ref)) for name, image in run.project.images.items()}


def _with_setting(run: Run, setting: str) -> dict[str, tuple[str, str]]:
    """Each image as its name has it, and under the fingerprint that it has with this setting."""
    name, _, value = setting.partition("=")
    if not (name.isidentifier() and value):
        raise UserError(f"--set takes NAME=VALUE, not {setting!r}", remedy="--set=NAME=VALUE, in one word")
    refs = {}
    for image, decision in run.anew({**run.environ, name: value}).decisions().items():
        ref = decision.inputs.image.ref
        refs[image] = (ref, "" if decision.inputs.problem else tag_of(ref, decision.inputs.fingerprint))
    return refs


def as_data(
    pairs: Mapping[str, tuple[str, str]],
    standard: Mapping[str, Measured],
    optimized: Mapping[str, Measured],
    contents: Mapping[str, Content],
    ways: tuple[str, str] = _WAYS,
) -> dict[str, Any]:
    """All that is known of the images in ``pairs``, as plain data; ``standard`` and ``optimized`` are all images that
    the engine holds, for what they share, ``contents`` is by image id, ``ways`` is what people call the two."""
    images = []
    disks = {
        way: Disk({name: image.parts for name, image in measured.items()})
        for way, measured in (("standard", standard), ("optimized", optimized))
    }
    for name, refs in pairs.items():
        measures = {}
        for way, ref, measured in (("standard", refs[0], standard), ("optimized", refs[1], optimized)):
            image = measured.get(name)
            measures[way] = _way(name, image, disks[way], contents) if image else {"ref": ref or None, "missing": True}
        before, after = standard.get(name), optimized.get(name)
        smaller = round(1 - after.size / before.size, 4) if before and after and before.size else None
        images.append({"name": name, "smaller": smaller, **measures})
    return {
        "ways": list(ways),
        "images": images,
        "standard_together": disks["standard"].together,
        "optimized_together": disks["optimized"].together,
    }


def _way(name: str, image: Measured, disk: Disk, contents: Mapping[str, Content]) -> dict[str, Any]:
    content = contents[image.id]
    return {
        "ref": image.ref,
        "bytes": image.size,
        "unique_bytes": disk.unique(name),
        "layers": [
            {"bytes": layer.size, "shared_with": [other for other in disk.users(layer.chain) if other != name]}
            for layer in image.layers
        ],
        "largest_files": [{"path": file.path, "bytes": file.size, "layer": file.layer + 1} for file in content.largest],
        "could_go": [
            {"what": finding.what, "bytes": finding.size, "files": finding.files, "remedy": finding.remedy}
            for finding in content.could_go
        ],
    }


def text(report: Mapping[str, Any]) -> str:
    """The same for people."""
    rows: list[tuple[str, ...]] = [("image", *report["ways"], "smaller", "only its own", "layers", "shared with")]
    for image in report["images"]:
        before, after = image["standard"], image["optimized"]
        smaller = "" if image["smaller"] is None else f"{image['smaller']:.1%}"
        layers = after.get("layers", [])
        shared = {name for layer in layers if layer["bytes"] for name in layer["shared_with"]}
        own = size_text(after["unique_bytes"]) if layers else ""
        both_sizes = map(_size, (before, after))
        rows.append((image["name"], *both_sizes, smaller, own, str(len(layers) or ""), ", ".join(sorted(shared))))
    both = [image for image in report["images"] if image["smaller"] is not None]
    if len(both) > 1:
        before, after = (sum(image[way]["bytes"] for image in both) for way in ("standard", "optimized"))
        sizes = (size_text(before), size_text(after), f"{1 - after / before:.1%}")
        rows.append((f"these {len(both)}, one by one", *sizes, "", "", ""))
    disk = [report["standard_together"], report["optimized_together"]]
    rows.append(("on one disk", *(size_text(size) if size else "" for size in disk), "", "", "", ""))
    lines = _aligned(rows)
    for image in report["images"]:
        for way in ("standard", "optimized"):
            lines += _details(image[way])
    missing = [
        image[way]["ref"]
        for image in report["images"]
        for way in ("standard", "optimized")
        if image[way].get("ref") and image[way].get("missing")
    ]
    if missing:
        lines += ["", f"not in the engine: {', '.join(missing)}"]
    return "\n".join(lines)


def _size(way: Mapping[str, Any]) -> str:
    return size_text(way["bytes"]) if "bytes" in way else "not here" if way["ref"] else "–"


def _details(way: Mapping[str, Any]) -> list[str]:
    if "largest_files" not in way:
        return []
    lines = ["", way["ref"]]
    layers = sorted(enumerate(way["layers"]), key=lambda item: -item[1]["bytes"])
    for number, layer in [item for item in layers if item[1]["bytes"]][:3]:
        shared = f", shared with {', '.join(layer['shared_with'])}" if layer["shared_with"] else ""
        lines.append(f"  {size_text(layer['bytes']):>9}  layer {number + 1} of {len(layers)}{shared}")
    lines += [f"  {size_text(file['bytes']):>9}  /{file['path']}" for file in way["largest_files"]]
    for finding in way["could_go"]:
        what = f"{finding['what']}, {finding['files']} files ({finding['remedy']})"
        lines.append(f"  {size_text(finding['bytes']):>9}  could be removed: {what}")
    return lines


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    last = len(widths) - 1
    return [
        "  ".join(
            cell if at == last else cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
