"""A directory as a model repository on the Hugging Face hub, or wherever HF_ENDPOINT points."""

from __future__ import annotations

from pathlib import Path

from rankray.errors import ModelError, first_line


def push(directory: Path, repository: str, *, private: bool) -> str:
    """Upload a directory as one commit, to a repository that is made where there is none; return its URL.

    The token is the one that `hf auth login` or HF_TOKEN gives.

    Args:
        directory: what to upload.
        repository: `owner/name`.
        private: whether a repository that is made is private; an existing one is left as it is.

    Raises:
        ModelError: the name is wrong, there is no token, or the hub refuses or does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, folder_path=directory, commit_message="A model exported by rankray")
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        first = first_line(error)
        raise ModelError(
            f"export: --push-to-hub {repository}: {first}; allowed: owner/name that your token may write; check the "
            f"name, `hf auth whoami` and the connection. The model is in {directory}, and can be pushed from there"
        ) from error
    return str(url)


def name_problem(repository: str) -> str:
    """Return why the hub has no repository of a name, or an empty string."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not typed so

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        return str(error).strip().splitlines()[0].rstrip(".")
    return ""
