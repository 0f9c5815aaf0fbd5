"""The card of a network that a search has found and trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from huggingface_hub import ModelCardData

from .rendering import render

__all__ = ['LOCAL_FOLDER', 'searched_card']

# Stands in the card for the folder's own name until it is published.
LOCAL_FOLDER = 'local-dir:PATH_TO_THIS_FOLDER'
_TIMM_USAGE = f"""import timm, pinas_models  # the import registers the architecture
model = timm.create_model('{LOCAL_FOLDER}', pretrained=True)"""


def searched_card(
    title: str,
    *,
    origin: str,
    rows: Iterable[tuple[str, str, str]],
    params: int,
    macs: int,
    image_size: int,
    facts: Mapping[str, str],
    usage: str | None = None,
) -> str:
    """Write the card. It passes ``check_card`` for a timm model.

    Args:
        title: What the network is called.
        origin: A sentence that says where it comes from.
        rows: Name of a part of the network, the choices in it, their names.
        params: Number of parameters.
        macs: Multiply-accumulates for an image of ``image_size``.
        image_size: Side of the images in pixels.
        facts: Further lines, label -> text, in this order: data, measured accuracy, command.
        usage: Python that opens the folder; None for a timm model.

    Returns:
        Markdown with the Hub's front matter.
    """
    library = 'timm' if usage is None else 'pytorch'
    front_matter = ModelCardData(
        tags=['image-classification', *(['timm'] if usage is None else []), 'neural-architecture-search'],
        pipeline_tag='image-classification',
        library_name=library,
    )
    values = {
        'title': title,
        'origin': origin,
        'rows': list(rows),
        'params': params,
        'macs': macs,
        'image_size': image_size,
        'facts': dict(facts),
        'usage': _TIMM_USAGE if usage is None else usage,
    }
    return render('searched.md.j2', front_matter, values)
