#!/usr/bin/env python3
"""Packs a folder as an image of one layer, in the format that `docker load` and `ctr images import` take; needs no daemon.

image-archive.py [--architecture A] ROOT OUT.tar NAME:TAG ENTRYPOINT [ARGUMENT...]
"""

import argparse
import hashlib
import io
import json
import os
import tarfile


def neutral(entry):
    """The same content gives the same image, whoever packs it and when."""
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="amd64")
    parser.add_argument("root")
    parser.add_argument("out")
    parser.add_argument("name")
    parser.add_argument("entrypoint", nargs="+")
    args = parser.parse_args()

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(args.root, arcname=".", filter=neutral)
    layer = buffer.getvalue()
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps({
        "architecture": args.architecture,
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Entrypoint": args.entrypoint,
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest]},
    }).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [args.name], "Layers": [digest + "/layer.tar"]}]).encode()
    # Whoever reads OUT meanwhile has the whole old one.
    with tarfile.open(args.out + ".new", "w") as image:
        for name, content in ((config_name, config), (digest + "/layer.tar", layer), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            image.addfile(entry, io.BytesIO(content))
    os.replace(args.out + ".new", args.out)


if __name__ == "__main__":
    main()
