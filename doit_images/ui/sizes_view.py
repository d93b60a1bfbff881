"""``doit image_sizes``: what takes space in the images, alone or against others of the same names; as JSON, and as text
for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import size_text
from doit_images.core.base.references import tag_of
from doit_images.core.run import Run
from doit_images.pruning.image_contents import Measured, SizeReport, contents_of, measure_image
from doit_images.stack.layers import Disk

WAYS = ("standard", "optimized")
"""The names in the JSON of what is compared, the images of the project second."""


def show(run: Run, names: Sequence[str], *, as_json: bool, setting: str) -> None:
    """Print the sizes of the images (all, or those named) that the engine holds, with their largest layers and files
    and what of them could be removed, to standard output. With a ``setting`` (``NAME=VALUE``) they are compared with
    the images that it makes of the same project."""
    show_beside({}, run, names, as_json=as_json, setting=setting)


def show_beside(standard: Mapping[str, str], run: Run, names: Sequence[str], *, as_json: bool, setting: str) -> None:
    """The same; without a ``setting`` they are compared with the ``standard`` images: references by name."""
    wanted = [run.project.image(name).name for name in names] or list(run.project.images)
    refs = {name: image.ref for name, image in run.project.images.items()}
    first, second = (refs, _with_setting(run, setting)) if setting else (standard, refs)
    measured = [
        {name: image for name, ref in way.items() if (image := measure_image(run.engine, ref))}
        for way in (first, second)
    ]
    shown = [image for way in measured for name, image in way.items() if name in wanted]
    if not shown:
        raise UserError("none of these images is in the engine", remedy="doit build")
    contents = contents_of(shown, run.folder / "sizes.json", run.environ, run.events.say)
    pairs = {name: (first.get(name, ""), second.get(name, "")) for name in wanted}
    ways = ("as they are", setting) if setting else WAYS if standard else ("", "size")
    report = as_data(pairs, measured, contents, ways)
    if as_json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        print_text(report)


def _with_setting(run: Run, setting: str) -> dict[str, str]:
    """Each image under the fingerprint that it has with this setting."""
    name, _, value = setting.partition("=")
    if not (name.isidentifier() and value):
        raise UserError(f"--set takes NAME=VALUE, not {setting!r}", remedy="--set=NAME=VALUE, in one word")
    decisions = run.anew({**run.environ, name: value}).planner.decisions()
    inputs = {image: decision.inputs for image, decision in decisions.items()}
    return {name: "" if one.problem else tag_of(one.image.ref, one.fingerprint) for name, one in inputs.items()}


def as_data(
    pairs: Mapping[str, tuple[str, str]],
    measured: Sequence[Mapping[str, Measured]],
    contents: Mapping[str, SizeReport],
    ways: tuple[str, str] = WAYS,
) -> dict[str, Any]:
    """All that is known of the images in ``pairs``, as plain data. ``measured`` are all images of each of the two ways
    that the engine holds, for what they share; ``contents`` is by ``Measured.chain``, ``ways`` is what people call the
    two."""
    images = []
    disks = [Disk({name: image.parts for name, image in way.items()}) for way in measured]
    for name, refs in pairs.items():
        before, after = found = [way.get(name) for way in measured]
        smaller = round(1 - after.size / before.size, 4) if before and after and before.size else None
        told = [
            _image(name, image, disk, contents[image.chain]) if image else {"ref": ref or None, "missing": True}
            for ref, image, disk in zip(refs, found, disks, strict=True)
        ]
        images.append({"name": name, "smaller": smaller, **dict(zip(WAYS, told, strict=True))})
    together = {f"{way}_together": disk.together for way, disk in zip(WAYS, disks, strict=True)}
    return {"ways": list(ways), "images": images, **together}


def _image(name: str, image: Measured, disk: Disk, content: SizeReport) -> dict[str, object]:
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


def print_text(report: Mapping[str, Any]) -> None:
    """Print the same for people."""
    from doit_images.core.base.output import Output, table

    compared = [way for way in WAYS if any(image[way]["ref"] for image in report["images"])]
    headings = [heading for way, heading in zip(WAYS, report["ways"], strict=True) if way in compared]
    drawn = table("image", numbers=(*headings, "smaller", "only its own", "layers"))
    drawn.add_column("shared with")
    for image in report["images"]:
        after = image[WAYS[1]]
        layers = after.get("layers", [])
        shared = {name for layer in layers if layer["bytes"] for name in layer["shared_with"]}
        own = size_text(after["unique_bytes"]) if layers else ""
        smaller = "" if image["smaller"] is None else f"{image['smaller']:.1%}"
        sizes = (_size(image[way]) for way in compared)
        drawn.add_row(image["name"], *sizes, smaller, own, str(len(layers) or ""), ", ".join(sorted(shared)))
    both = [image for image in report["images"] if image["smaller"] is not None]
    if len(both) > 1:
        before, after = (sum(image[way]["bytes"] for image in both) for way in WAYS)
        drawn.add_row(
            f"these {len(both)}, one by one", size_text(before), size_text(after), f"{1 - after / before:.1%}"
        )
    disk = [report[f"{way}_together"] for way in compared]
    drawn.add_row("on one disk", *(size_text(size) if size else "" for size in disk))
    console = Output()
    console.print(drawn)
    told = [image[way] for image in report["images"] for way in WAYS]
    lines = [line for one in told for line in _details(one)]
    if missing := [one["ref"] for one in told if one["ref"] and one.get("missing")]:
        lines += ["", f"not in the engine: {', '.join(missing)}"]
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def _size(image: Mapping[str, Any]) -> str:
    return size_text(image["bytes"]) if "bytes" in image else "not here" if image["ref"] else "–"


def _details(image: Mapping[str, Any]) -> list[str]:
    if "largest_files" not in image:
        return []
    lines = ["", image["ref"]]
    layers = sorted(enumerate(image["layers"]), key=lambda item: -item[1]["bytes"])
    for number, layer in [item for item in layers if item[1]["bytes"]][:3]:
        shared = f", shared with {', '.join(layer['shared_with'])}" if layer["shared_with"] else ""
        lines.append(f"  {size_text(layer['bytes']):>9}  layer {number + 1} of {len(layers)}{shared}")
    lines += [f"  {size_text(file['bytes']):>9}  /{file['path']}" for file in image["largest_files"]]
    for finding in image["could_go"]:
        what = f"{finding['what']}, {finding['files']} files ({finding['remedy']})"
        lines.append(f"  {size_text(finding['bytes']):>9}  could be removed: {what}")
    return lines
