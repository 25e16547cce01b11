"""An exported model on the model hub, through ``huggingface_hub``.

The token is the one of ``hf auth login`` or of ``HF_TOKEN``; it is in no option, file or message.
"""

from pathlib import Path

from wdl.errors import UserError


def check_name(name: str) -> None:
    """Refuse what the hub cannot call a model.

    Raises:
        UserError: It is no ORG/NAME.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"push_to_hub: {error}") from None
    if name.count("/") != 1:
        raise UserError(f"push_to_hub: {name}: give ORGANISATION/NAME, or USER/NAME")


def contents(folder: Path) -> list[str]:
    """What an upload would hold: a line for each file, with its size, and their sum."""
    sizes = {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    lines = [f"{size / 1e6:12.3f} MB  {name}" for name, size in sizes.items()]
    return [*lines, f"{sum(sizes.values()) / 1e6:12.3f} MB  in {len(sizes)} files"]


def push(folder: Path, name: str, private: bool) -> str:
    """Upload a folder as one commit, and make the repository if there is none; its address.

    Raises:
        UserError: The hub cannot be reached, or refuses; the folder stays as it is.
    """
    from huggingface_hub import HfApi, get_token

    try:
        api = HfApi()
        address = str(api.create_repo(name, private=private, exist_ok=True))
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Add the model")
    except Exception as error:  # of the network, the hub, or what stands between
        said = str(error).strip() or type(error).__name__
        said = said.replace(get_token() or "\0", "***")  # where a server quotes it
        raise UserError(
            f"push_to_hub: {name}: {said}; the model stays in {folder}: hf upload {name} {folder}"
        ) from None
    return address
