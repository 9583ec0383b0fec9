"""Plan of a preparation and its estimated cost: rows, tokens, hours, money and disk space."""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

from core.errors import ConfigError
from data_prep.prepare.faults import DroppedError
from data_prep.prepare.items import make_item, texts_of
from data_prep.prepare.reading import rows
from data_prep.prepare.recipe import PrepareConfig, SourceRecipe
from data_prep.prepare.translation.prompts import load_prompt
from data_prep.prepare.translation.translators import Backend
from data_prep.prepare.work import PLAN, SourcePlan, WorkPlan, load_plan

_NUM_SAMPLED_ROWS = 200
_CHARACTERS_PER_TOKEN = 3.5
_ASSUMED_IMAGE_BYTES = 80_000
_ASSUMED_IMAGES_PER_S = 50.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PreparationEstimate:
    """Estimated cost of a source; every figure but `num_rows` is extrapolated or assumed."""

    num_rows: int
    usable: float
    """Share of the sampled rows that could be used."""
    by: str
    """Name of the translator."""
    tokens: float
    """Tokens that the translator reads."""
    hours: float
    money: float
    gigabytes: float
    downloads: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PreparationRequest:
    """The recipe, language and output folder that the user asked for."""

    recipe: str
    language: str
    """Target language."""
    out: Path
    limit: int = 0
    """Maximum number of rows of each source; 0 means all."""


def make_plan(
    order: PreparationRequest,
    config: PrepareConfig,
    recipes: Mapping[str, SourceRecipe],
    *,
    only_look: bool = False,
) -> WorkPlan:
    """Split every source into parts, or return the plan of an earlier run with equal settings.

    Args:
        order: The recipe, language and output folder.
        config: Settings of the recipe.
        recipes: Sources of the recipe by name.
        only_look: Allow a plan without a translator, for a dry run.

    Raises:
        ConfigError: If a file is missing, or texts need a translation and no back end is set.
    """
    language, limit = order.language, order.limit
    if (order.out / "work" / PLAN).is_file():
        begun = load_plan(order.out)
        asked = (order.recipe, language, limit, config, dict(recipes))
        if asked == (begun.recipe, begun.language, begun.limit, begun.config, begun.recipes):
            return begun  # keeps the parts even if the dataset has changed on the hub since
    if language == config.base:
        raise ConfigError(
            f"--language {language} is the language of the sources; choose another language"
        )
    sources = [
        source
        for name, recipe in recipes.items()
        for source in _sources(name, recipe, language, config, limit)
    ]
    untranslated = [source.name for source in sources if source.is_translated]
    if untranslated and not only_look:
        load_prompt(language)
        if config.translate.backend is Backend.NONE:
            raise ConfigError(
                f"{', '.join(untranslated)}: no published translation into '{language}'; set "
                "translate.backend to ctranslate2 or endpoint (see --help)"
            )
    return WorkPlan(
        out=order.out,
        recipe=order.recipe,
        language=language,
        limit=limit,
        config=config,
        recipes=dict(recipes),
        sources=tuple(sources),
    )


def _sources(
    name: str, recipe: SourceRecipe, language: str, config: PrepareConfig, limit: int
) -> list[SourcePlan]:
    if config.translate.again:
        recipe = dataclasses.replace(recipe, published={})
    published = recipe.published.get(language)
    plain = SourcePlan(
        name=name,
        title=name,
        recipe=recipe,
        language=config.base,
        target=language,
        parts=_parts(recipe, recipe.place, config, limit),
    )
    if published is None or not published.alone:
        if (
            published is not None
            and published.place
            and not (published.by_place or _has_key(recipe))
        ):
            raise ConfigError(
                f"{name}: the published translation in another location needs a `key` column or "
                "by_place: true"
            )
        return [plain]
    # The rows do not correspond, so they become two sources of one language each.
    translated = dataclasses.replace(
        recipe,
        place=published.place,
        columns=published.renamed(recipe.columns),
        leave_out=published.leave_out,
        licence=published.licence or recipe.licence,
        published={},
    )
    return [
        dataclasses.replace(plain, target=""),
        SourcePlan(
            name=f"{name}_translated",
            title=name,
            recipe=translated,
            language=language,
            target="",
            parts=_parts(translated, translated.place, config, limit),
        ),
    ]


def _has_key(recipe: SourceRecipe) -> bool:
    return "key" in recipe.columns or bool(
        recipe.benchmark and recipe.benchmark_recipe.columns.question_id
    )


def _parts(recipe: SourceRecipe, place: str, config: PrepareConfig, limit: int) -> list[rows.Part]:
    return rows.split(place, per_part=config.per_part, limit=limit, has_head=recipe.has_head)


def estimate(plan: WorkPlan, source: SourcePlan) -> PreparationEstimate:
    """Estimate the cost of a source from its first rows."""
    config = plan.config.translate
    num_read, characters, images, urls, num_made = 0, 0, 0, 0, 0
    for _, row in itertools.islice(_first_rows(source), _NUM_SAMPLED_ROWS):
        num_read += 1
        try:
            if isinstance(row, DroppedError):
                raise row
            item = make_item(source.recipe, row, "", base=source.language, target=source.target)
        except DroppedError:
            continue
        num_made += 1
        characters += sum(map(len, dict.fromkeys(texts_of(item.records[source.language]))))
        images += len(item.image or b"") or (_ASSUMED_IMAGE_BYTES if item.image_url else 0)
        urls += bool(item.image_url)
    scale = source.num_rows / max(1, num_read)
    tokens = scale * characters / _CHARACTERS_PER_TOKEN if source.is_translated else 0.0
    price = config.endpoint
    money = tokens * (price.price_in + price.price_out) / 1e6 if price else 0.0
    downloads = round(scale * urls)
    hours = (tokens / config.tokens_per_s + downloads / _ASSUMED_IMAGES_PER_S) / 3600
    return PreparationEstimate(
        num_rows=source.num_rows,
        usable=num_made / max(1, num_read),
        by=_translator_name(plan, source),
        tokens=tokens,
        hours=hours,
        money=money,
        gigabytes=scale * (images + 2 * characters) / 1e9,
        downloads=downloads,
    )


def _first_rows(
    source: SourcePlan,
) -> "itertools.chain[tuple[int, rows.DatasetRow | DroppedError]]":
    reads = (rows.read(part) for part in source.parts)
    return itertools.chain.from_iterable(reads)


def _translator_name(plan: WorkPlan, source: SourcePlan) -> str:
    if not source.target:
        return f"none: {source.language} only"
    if not source.is_translated:
        return "published"
    config = plan.config.translate
    if config.backend is Backend.NONE:
        return "not set: translate.backend"
    model = config.endpoint.model if config.endpoint else Path(config.model).name
    return f"{config.backend}: {model}"
