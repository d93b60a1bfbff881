"""How are the sizes of images shown: as plain data, and as text for people?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.base.formatting import size_text
from tasks.engine.layers import Disk
from tasks.pruning.image_contents import Content, Measured


def as_data(
    pairs: Mapping[str, tuple[str, str]],
    standard: Mapping[str, Measured],
    optimized: Mapping[str, Measured],
    contents: Mapping[str, Content],
) -> dict[str, Any]:
    """All that is known of the images in ``pairs``, as plain data; ``standard`` and ``optimized`` are all images that
    the engine holds, for what they share, ``contents`` is by image id."""
    images = []
    disks = {
        way: Disk({name: image.parts for name, image in measured.items()})
        for way, measured in (("standard", standard), ("optimized", optimized))
    }
    for name, refs in pairs.items():
        ways = {}
        for way, ref, measured in (("standard", refs[0], standard), ("optimized", refs[1], optimized)):
            found = measured.get(name)
            ways[way] = _way(name, found, disks[way], contents) if found else {"ref": ref or None, "missing": True}
        one, other = standard.get(name), optimized.get(name)
        smaller = round(1 - other.size / one.size, 4) if one and other and one.size else None
        images.append({"name": name, "smaller": smaller, **ways})
    return {
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
            {"what": one.what, "bytes": one.size, "files": one.files, "remedy": one.remedy} for one in content.could_go
        ],
    }


def text(report: Mapping[str, Any]) -> str:
    """The same for people."""
    rows: list[tuple[str, ...]] = [
        ("image", "standard", "optimized", "smaller", "only its own", "layers", "shared with")
    ]
    for image in report["images"]:
        one, other = image["standard"], image["optimized"]
        smaller = "" if image["smaller"] is None else f"{image['smaller']:.1%}"
        layers = other.get("layers", [])
        shared = {name for layer in layers if layer["bytes"] for name in layer["shared_with"]}
        own = size_text(other["unique_bytes"]) if layers else ""
        sizes_ = [
            size_text(way["bytes"]) if "bytes" in way else "not here" if way["ref"] else "–" for way in (one, other)
        ]
        rows.append((image["name"], *sizes_, smaller, own, str(len(layers) or ""), ", ".join(sorted(shared))))
    both = [image for image in report["images"] if image["smaller"] is not None]
    if len(both) > 1:
        one, other = (sum(image[way]["bytes"] for image in both) for way in ("standard", "optimized"))
        rows.append(
            (f"these {len(both)}, one by one", size_text(one), size_text(other), f"{1 - other / one:.1%}", "", "", "")
        )
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


def _details(way: Mapping[str, Any]) -> list[str]:
    if "largest_files" not in way:
        return []
    lines = ["", way["ref"]]
    layers = sorted(enumerate(way["layers"]), key=lambda item: -item[1]["bytes"])
    for number, layer in [item for item in layers if item[1]["bytes"]][:3]:
        shared = f", shared with {', '.join(layer['shared_with'])}" if layer["shared_with"] else ""
        lines.append(f"  {size_text(layer['bytes']):>9}  layer {number + 1} of {len(layers)}{shared}")
    lines += [f"  {size_text(file['bytes']):>9}  /{file['path']}" for file in way["largest_files"]]
    lines += [
        f"  {size_text(one['bytes']):>9}  could be removed: {one['what']}, {one['files']} files ({one['remedy']})"
        for one in way["could_go"]
    ]
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
