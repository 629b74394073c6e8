"""Read and write YAML: the only address of yaml in the product.

It knows no model of ours: a caller brings the pydantic class that its file must fit.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Tag, ValidationError
from pydantic_core import ErrorDetails

from vision.errors import ConfigError

CONFIG_FOLDER = Path(__file__).parent
M = TypeVar("M", bound=BaseModel)


class StrictModel(BaseModel):
    """Base of every configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def _in_a_header(text: str) -> str:
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError(
            "it travels in an HTTP header: take ASCII letters, digits and signs, without spaces "
            "('openssl rand -hex 24' makes a good one)"
        )
    return text


def _as_a_topic(text: str) -> str:
    if not text or set(text) & set("+#\0") or len(text.encode(errors="surrogatepass")) > 1000:
        raise ValueError("an MQTT topic to publish to: up to 1000 bytes, without + and #")
    return text


def _on_one_line(text: str) -> str:
    if any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in text):
        raise ValueError("one line, without tabs and other control characters")
    return text


# Texts that a protocol must carry: a wrong one is an error when settings are read, not later when
# nobody gets in.
Token = Annotated[str, AfterValidator(_in_a_header)]
Topic = Annotated[str, AfterValidator(_as_a_topic)]
Name = Annotated[str, AfterValidator(_on_one_line)]


def by_kind(kind_of: Callable[[Any], object], *kinds: str) -> Discriminator:
    """Return what chooses the model of a section that may be of several kinds.

    Annotate a union with it, each member with its `Tag`. A key that belongs to another kind is then
    an error.

    Args:
        kind_of: takes what stands in the file, or a model, and returns the kind.
        kinds: those that there are, for the message.
    """
    return Discriminator(
        kind_of,
        custom_error_type="kind",
        custom_error_message=f"no section of a known kind; known: {', '.join(kinds)}",
    )


def kind_or(default: str) -> Callable[[Any], object]:
    """Return a function that reads the key `kind` of a section; where there is none, `default`."""

    def kind_of(section: Any) -> object:  # noqa: ANN401  whatever stands in a file
        if isinstance(section, Mapping):
            return section.get("kind", default)
        return getattr(section, "kind", None)

    return kind_of


_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """A loader that leaves every plain word as text; the model makes numbers and truth values.

    YAML itself makes numbers of 0042, 1_000, 12:30:45 and 1.10, truth values of no and on, and a
    date of 2026-11-26, before anybody knows that a name was meant. Only null (also ~) and merge
    keys (<<) keep their meaning.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse a key that stands twice or has no value: nobody can say what was meant."""
        seen: set[str] = set()
        for key, value in node.value:
            wrong = ""
            if key.value in seen and key.tag != _MERGE:
                wrong = f"the key {key.value!r} stands twice"
            # "token: #abc" would open a hub to everybody.
            if value.tag == _NULL and not value.value:
                wrong = (
                    f"the key {key.value!r} has no value: write null for none, and quote a text "
                    "that begins with #"
                )
            if wrong:
                raise yaml.constructor.ConstructorError(None, None, wrong, key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in (_NULL, _MERGE)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _parsed(text: str) -> object:
    document: object = yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
    return document


def load(model: type[M], path: Path | None, overrides: Iterable[str] = ()) -> M:
    """Read a YAML file into a model; `key.path=value` overrides win over the file.

    Args:
        model: pydantic class with `extra="forbid"`.
        path: the file; None for the model's own defaults.
        overrides: like "recipe.epochs=3"; lists, quoted texts and null are read as YAML, all else
            as it stands.

    Raises:
        ConfigError: names file, key path and reason.
    """
    source = str(path) if path else "command line"
    document: Any = {}
    if path:
        try:
            document = _parsed(path.read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid YAML: {error}") from error
        if not isinstance(document, dict):
            raise ConfigError(
                f"{path}: expected keys and values at the top, found {type(document).__name__}"
            )
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key or not text.strip():
            # An empty value is more often an unset shell variable than intended.
            raise ConfigError(f"--set {item!r}: write key.path=value (null for none)")
        try:
            # A list, a section, a quoted text and null are YAML; all else is taken as it stands,
            # with # and : in it.
            as_yaml = text.strip()[0] in "[{\"'" or text.strip() in ("null", "~")
            _put(document, key, _parsed(text) if as_yaml else text.strip())
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {item!r}: {text!r} is not valid YAML") from error
    return _validated(model, document, source)


def with_values(config: M, values: Mapping[str, Any]) -> M:
    """Return a configuration with other values at some key paths, and check it again.

    Args:
        config: the configuration; it stays as it is.
        values: key path -> value, such as {"recipe.epochs": 3}.

    Raises:
        ConfigError: names key path and reason.
    """
    document = config.model_dump(mode="json")
    for key, value in values.items():
        _put(document, key, value)
    return _validated(type(config), document, "values")


def dump(config: BaseModel, path: Path) -> None:
    """Write a configuration as YAML that `load` reads back."""
    path.write_text(
        yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8"
    )


def _validated(model: type[M], document: dict[str, Any], source: str) -> M:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        reasons = [
            f"{'.'.join(_walk(model, e['loc'])[0]) or '(top)'}: {_reason(e, model)}"
            for e in error.errors()
        ]
        raise ConfigError(f"{source}: " + "; ".join(reasons)) from error


def _put(document: dict[str, Any], key: str, value: object) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        below = document.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigError(f"--set {key}: {parent} is a value, not a section")
        document = below
    document[last] = value


def _reason(error: ErrorDetails, model: type[BaseModel]) -> str:
    if error["type"] != "extra_forbidden":
        return str(error["msg"])
    _, below = _walk(model, error["loc"][:-1])
    known = list(below.model_fields) if below else []
    return "unknown key" + (f"; known here: {', '.join(known)}" if known else "")


def _walk(
    model: type[BaseModel], loc: tuple[int | str, ...]
) -> tuple[list[str], type[BaseModel] | None]:
    """Return the key path that an error's place has in the file, and the model found there.

    Where a section may be of several kinds, pydantic puts the kind into the place; the file has no
    such key.
    """
    path: list[str] = []
    here: type[BaseModel] | None = model
    kinds: dict[str, type[BaseModel]] = {}
    for part in map(str, loc):
        if part in kinds:
            here = kinds[part]
            kinds = {}
            continue
        path.append(part)
        field = here.model_fields.get(part) if here else None
        kinds = _kinds(field.annotation, field.metadata) if field else {}
        inner = field.annotation if field else None
        here = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
    return path, here


def _kinds(annotation: object, metadata: Iterable[object]) -> dict[str, type[BaseModel]]:
    """Return tag -> model of a section that may be of several kinds; empty for any other."""
    if not any(isinstance(m, Discriminator) for m in metadata):
        return {}
    tagged: dict[str, type[BaseModel]] = {}
    for member in get_args(annotation):
        inner, *marks = get_args(member)
        tagged |= {mark.tag: inner for mark in marks if isinstance(mark, Tag)}
    return tagged
