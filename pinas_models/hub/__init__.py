"""Model folders out to the Hub and back: golden tensors, checksums, upload, verification."""

from .fetch import check_repo_id, find_folder
from .folder import FolderFile, list_files
from .golden import TOLERANCE
from .publish import names_license, require_token, stage_folder, upload_folder
from .verify import Check, verify_folder, verify_in_fresh_process

__all__ = [
    'TOLERANCE',
    'Check',
    'FolderFile',
    'check_repo_id',
    'find_folder',
    'list_files',
    'names_license',
    'require_token',
    'stage_folder',
    'upload_folder',
    'verify_folder',
    'verify_in_fresh_process',
]
