"""Downloading one large file of the hub into its cache so that a stopped download goes on where it was.

The hub's own client starts a file again after its process ended (its partial files have random names). Here the
partial file has a name of its own, `blobs/ETAG.symdream-part`, and becomes the cache's blob when its sha256 fits.
"""

from __future__ import annotations

from pathlib import Path

from symdream.diffusion.hashes import HEX64, file_sha256
from symdream.errors import WorkError


def fetch_blob(repo: str, commit: str, filename: str) -> None:
    """Bring the content of `filename` into the cache's blobs; the client then only has to link it.

    Raises: WorkError if the content does not hash to what the hub says; the hub client's errors otherwise.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    url = hf_hub_url(repo, filename, revision=commit)
    remote = get_hf_file_metadata(url)
    cache, folder = Path(constants.HF_HUB_CACHE), repo_folder_name(repo_id=repo, repo_type="model")
    blob = cache / folder / "blobs" / remote.etag
    part = blob.with_name(f"{remote.etag}.symdream-part")
    lock = cache / ".locks" / folder / f"{part.name}.lock"
    for parent in (blob.parent, lock.parent):
        parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return
        with part.open("ab") as stream:
            http_get(
                url,
                stream,
                resume_size=stream.tell(),
                headers=build_hf_headers(),
                expected_size=remote.size,
                displayed_filename=filename,
            )
        if HEX64.fullmatch(remote.etag) and file_sha256(part) != remote.etag:
            part.unlink()
            raise WorkError(f"{filename} arrived damaged and was deleted.", fix="run the command again")
        part.replace(blob)
