"""What `bertnli push` does: a model folder, a run's model or a bundle, checked to be whole, goes to the model hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertnli.common.errors import InputError
from bertnli.common.files import existing_path
from bertnli.common.installed import need
from bertnli.common.urls import is_url, redact
from bertnli.families.d2l import D2L_ARCHITECTURES
from bertnli.fetch import hub_push, model_hub
from bertnli.run.folder import result_of, run_of

if TYPE_CHECKING:
    from bertnli_export.bundle import Bundle
    from bertnli_export.manifest import Manifest, OtherGraph

CARD = "README.md"


def push(
    model: str,
    repo: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    delete_others: bool = False,
) -> dict[str, Any]:
    """Push the model folder, finished run or bundle at the path `model`; see `hub_push.push` for the other arguments.

    Returns `repository` (its address), `commit`, `new` (false: nothing had changed), `private` and `files`. Raises
    InputError for what is no model or not whole, before anything is sent, and as `hub_push.push` does.
    """
    path = existing_path(model)
    if path is None and is_url(model):
        raise InputError(f"push: {redact(model)}", found="a URL", expected="a folder here", do="copy it here first")
    if path is None or not path.is_dir():
        raise InputError(
            f"push: {model}",
            found="nothing there" if path is None else "a file",
            expected="the folder of a model, of a finished run or of a bundle",
        )
    files = of_bundle(path) if (path / "manifest.json").is_file() else of_model(_folder(path, model))
    pushed = hub_push.push(
        files,
        repo,
        private=private,
        revision=revision,
        message=message or f"Push {path.resolve().name} with bertnli",
        delete_others=delete_others,
    )
    return {
        "repository": pushed.url,
        "commit": pushed.commit,
        "new": pushed.new,
        "private": pushed.private,
        "files": len(files),
        **({} if pushed.new else {"note": "nothing had changed, so there is no new commit"}),
    }


def of_bundle(path: Path) -> dict[str, Path | bytes]:
    """The files of a bundle, its model card among them. Raises InputError unless all are what its manifest says."""
    from bertnli_export.bundle import Bundle
    from bertnli_export.manifest import MANIFEST

    bundle = Bundle.open(path)
    bundle.check_files()
    bundle.check_config()
    bundle.tokenizer()
    files: dict[str, Path | bytes] = {name: path / name for name in (*bundle.manifest.files, MANIFEST)}
    files |= {file.name: file for file in _descriptions(path)}
    return {CARD: card(bundle).encode()} | files


def of_model(folder: Path) -> dict[str, Path | bytes]:
    """The files of a model that a loader reads, and its descriptions. Raises InputError unless it can be loaded."""
    if (folder / "vocab.json").is_file() and not (folder / "config.json").exists():
        raise InputError(
            f"push: {folder}",
            found="d2l weights as the book has them, which do not say their architecture",
            expected="the model folder of a run, or a bundle",
            do=f"export it, and push that: bertnli export {folder} OUT --arch {' or '.join(D2L_ARCHITECTURES)}",
        )
    need("torch", "train")
    from bertnli.model import pretrained

    pretrained.load(folder)  # a file that lacks a weight, or is no such file, is named here
    files: dict[str, Path | bytes] = {name: folder / name for name in model_hub.model_files(folder)}
    return files | {file.name: file for file in _descriptions(folder)}


def card(bundle: Bundle) -> str:
    """The model card of a bundle that has none of its own, of what its manifest says."""
    from bertnli.report.model_card import bundle_card

    manifest = bundle.manifest
    graphs: dict[str, Manifest | OtherGraph] = {bundle.graph: manifest}
    for graph, other in manifest.others.items():
        graphs[graph] = other
    return bundle_card(
        name=Path(manifest.origin.name or bundle.path.resolve()).name,
        family=manifest.origin.family,
        outputs=manifest.outputs,
        licence=manifest.origin.licence,
        disclosure=manifest.origin.disclosure,
        max_length=manifest.max_length,
        graphs={bundle.file(graph).relative_to(bundle.path).as_posix(): about for graph, about in graphs.items()},
    )


def _folder(path: Path, model: str) -> Path:
    """The model folder of a path that may be a finished run's."""
    run = run_of(path)
    if run is None:
        return path
    result = result_of(path)
    if result is None:
        raise InputError(
            f"push: {model}",
            found="a run that is not finished, or one of its checkpoints",
            expected="a finished run, or its model folder",
            do=f"finish it first: bertnli train {run.run_file}",
        )
    return result


def _descriptions(folder: Path) -> list[Path]:
    names = ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "NOTICE")
    return [folder / name for name in names if (folder / name).is_file()]
