"""Networks that the user brings: edge lists, GraphML, SIF, and datasets of torch_geometric."""

from __future__ import annotations

import csv
import inspect
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from durotaxis.core.errors import UserError
from durotaxis.core.spelling import did_you_mean

PYG = "pyg:"
"""Beginning of the name of a dataset of torch_geometric: `pyg:KarateClub`, `pyg:TUDataset/MUTAG`."""
SUFFIXES = (".csv", ".tsv", ".txt", ".edges", ".edgelist", ".graphml", ".sif")
_HEADERS = {
    ("source", "target"),
    ("src", "dst"),
    ("from", "to"),
    ("fromnode", "tonode"),
    ("fromnodeid", "tonodeid"),
    *(
        (f"{word}{one}", f"{word}{two}")
        for word in ("node", "id", "protein", "gene", "interactor")
        for one, two in ("12", "ab")
    ),
}
"""First two cells of a header, in small letters, without blanks, `_` and `-`. One alone may be a node."""
_COMMENT = re.compile(r"^\s*([#%].*)?$")


@dataclass(frozen=True)
class Network:
    """A graph, usually larger than one scene."""

    name: str
    num_nodes: int
    edges: np.ndarray  # [E,2] int64, source and target; no loops, no pair twice
    places: np.ndarray | None = None  # [N,2] of any unit, where the source has them


def read_network(data: str, root: Path) -> Network:
    """A network from a file, or from a dataset of torch_geometric.

    Args:
        data: a path that ends in one of SUFFIXES, or `pyg:<Class>` or `pyg:<Class>/<name>`.
        root: where datasets of torch_geometric are kept, and downloaded to.

    Raises:
        UserError: not there, not readable, not to be had offline, or without any edge.
    """
    if data.startswith(PYG):
        return _checked(_read_dataset(data, root))
    path = Path(data).expanduser()
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{data}: a network ends in {', '.join(SUFFIXES)}, or is named {PYG}<Dataset>")
    if suffix == ".graphml":
        return _checked(_read_graphml(path))
    lines = _read_lines(path)
    pairs, alone = _sif_pairs(path, lines) if suffix == ".sif" else (list(_listed_pairs(path, lines)), [])
    return _checked(_named(str(path), pairs, alone))


def excerpt(
    network: Network, generator: np.random.Generator, most_nodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """A part of a network on the plane: places [N,2] in µm about 0, and edges [E,2].

    The nodes are those nearest to one or two random ones, at most `most_nodes`; up to a third of their edges
    are left out, so that parts fall apart. Without places, a spring layout (Fruchterman and Reingold 1991).
    The mean edge is 3 to 10 µm long.
    """
    import networkx

    most = min(most_nodes, network.num_nodes)
    wanted = int(generator.integers(min(4, most), most + 1))
    starts = generator.choice(network.num_nodes, min(int(generator.integers(1, 3)), wanted), replace=False)
    chosen = np.sort(_nearest(_neighbours(network), starts, wanted))
    row = np.full(network.num_nodes, -1)
    row[chosen] = np.arange(len(chosen))
    edges = row[network.edges]
    edges = edges[(edges >= 0).all(1)]
    edges = edges[generator.random(len(edges)) >= generator.uniform(0.0, 1 / 3)]
    if network.places is None:
        graph = networkx.Graph(edges.tolist())
        graph.add_nodes_from(range(len(chosen)))
        drawn = networkx.spring_layout(graph, seed=int(generator.integers(1 << 31)))
        places = np.array([drawn[node] for node in range(len(chosen))])
    else:
        places = network.places[chosen]
    places = places - places.mean(0)
    lengths = np.linalg.norm(places[edges[:, 0]] - places[edges[:, 1]], axis=1)
    unit = float(lengths.mean()) if len(edges) else float(np.abs(places).mean())
    return places * (generator.uniform(3.0, 10.0) / max(unit, 1e-9)), edges


def _neighbours(network: Network) -> Any:
    """The adjacency, symmetric, by rows."""
    from scipy.sparse import coo_array

    both = np.concatenate([network.edges, network.edges[:, ::-1]])
    ones = np.ones(len(both), dtype=np.int8)
    return coo_array((ones, (both[:, 0], both[:, 1])), shape=(network.num_nodes,) * 2).tocsr()


def _nearest(adjacency: Any, starts: np.ndarray, wanted: int) -> np.ndarray:
    """The first `wanted` nodes in breadth-first order from all starts."""
    seen = dict.fromkeys(int(start) for start in starts)
    queue = list(seen)
    for node in queue:
        if len(seen) >= wanted:
            break
        for other in adjacency.indices[adjacency.indptr[node] : adjacency.indptr[node + 1]]:
            if int(other) not in seen:
                seen[int(other)] = None
                queue.append(int(other))
    return np.array(list(seen)[:wanted])


def _checked(network: Network) -> Network:
    """Without loops and repeated pairs; refused when no edge is left."""
    edges = network.edges[network.edges[:, 0] != network.edges[:, 1]]
    _, first = np.unique(np.sort(edges, axis=1), axis=0, return_index=True)
    edges = edges[np.sort(first)]
    if len(edges) == 0:
        raise UserError(f"{network.name}: holds no edge between two nodes; is it the right file?")
    return Network(network.name, network.num_nodes, edges, network.places)


def _named(name: str, pairs: Iterable[tuple[str, str]], alone: Iterable[str] = ()) -> Network:
    pairs = list(pairs)
    names = dict.fromkeys(node for pair in pairs for node in pair) | dict.fromkeys(alone)
    index = {node: row for row, node in enumerate(names)}
    edges = np.array([(index[a], index[b]) for a, b in pairs], dtype=np.int64).reshape(-1, 2)
    return Network(name, len(names), edges)


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def _listed_pairs(path: Path, lines: list[str]) -> Iterator[tuple[str, str]]:
    """The first two columns; commas in `.csv`, else tabs or blanks; a header and comments are left out."""
    is_csv = path.suffix.lower() == ".csv"
    rows = [(number, line) for number, line in enumerate(lines, 1) if not _COMMENT.match(line)]
    for count, (number, line) in enumerate(rows):
        separator = "," if is_csv else "\t" if "\t" in line else " "
        try:
            (cells,) = csv.reader([line.strip(" ")], delimiter=separator, skipinitialspace=True, strict=True)
        except csv.Error as error:
            raise UserError(f"{path}:{number}: quotes do not close a cell ({error})") from error
        first, second = ([cell.strip() for cell in cells] + ["", ""])[:2]
        if not first or not second:
            raise UserError(f"{path}:{number}: needs two node names, not '{line.strip()[:60]}'")
        for cell in (first, second):
            if not is_csv and (cell[0] in ",;" or cell[-1] in ",;"):
                raise UserError(
                    f"{path}:{number}: '{cell[:60]}' is no node name: tabs or blanks separate columns "
                    "here; use either alone, or separate by commas in a file that ends in .csv"
                )
        if count == 0 and (_header_word(first), _header_word(second)) in _HEADERS:
            continue
        yield first, second


def _header_word(cell: str) -> str:
    return re.sub(r"[\s_-]", "", cell).lower()


def _sif_pairs(path: Path, lines: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Cytoscape's simple interaction format: `node type node node ...`; a line of one word is a node."""
    separator = "\t" if any("\t" in line for line in lines) else None
    pairs, alone = [], []
    for number, line in enumerate(lines, 1):
        if _COMMENT.match(line):
            continue
        source, *rest = [cell.strip() for cell in line.split(separator)]
        if len(rest) == 1 or not source:
            raise UserError(f"{path}:{number}: needs `node type node`, not '{line.strip()[:60]}'")
        pairs += [(source, target) for target in rest[1:] if target]
        alone += [source] if not rest else []
    return pairs, alone


def _read_graphml(path: Path) -> Network:
    import xml.etree.ElementTree

    import networkx

    if not path.is_file():
        raise UserError(f"{path}: does not exist; check the path")
    try:
        graph = networkx.read_graphml(path)
    except (
        networkx.NetworkXException,
        xml.etree.ElementTree.ParseError,
        OSError,
        LookupError,
        ValueError,
    ) as error:
        raise UserError(f"{path}: not readable as GraphML ({_one_line(error)})") from error
    index = {node: row for row, node in enumerate(graph)}
    edges = np.array([(index[a], index[b]) for a, b in graph.edges()], dtype=np.int64).reshape(-1, 2)
    places = _places(str(path), (values for _, values in graph.nodes(data=True)))
    return Network(str(path), len(index), edges, places)


def _places(name: str, attributes: Iterable[dict[str, Any]]) -> np.ndarray | None:
    """Numbers x and y of every node; None unless all have them."""
    pairs = [(values.get("x"), values.get("y")) for values in attributes]
    if any(value is None for pair in pairs for value in pair):
        return None
    if not all(_is_finite(value) for pair in pairs for value in pair):
        raise _wrong_places(name, "x and y")
    return np.array(pairs, dtype=np.float64)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _wrong_places(name: str, what: str) -> UserError:
    return UserError(f"{name}: {what} of every node must be finite numbers; mend them or leave them out")


def _read_dataset(data: str, root: Path) -> Network:
    """All graphs of a dataset of torch_geometric, side by side."""
    from aiohttp import ClientError
    from torch_geometric import datasets

    transfer_failures: tuple[type[BaseException], ...] = (OSError, ClientError)
    class_name, _, name = data.removeprefix(PYG).partition("/")
    known = [known for known in datasets.__all__ if inspect.isclass(getattr(datasets, known))]
    if class_name not in known:
        raise UserError(
            f"{data}: torch_geometric.datasets has no '{class_name}'{did_you_mean(class_name, known)}"
        )
    factory = getattr(datasets, class_name)
    accepted = inspect.signature(factory).parameters
    options: dict[str, Any] = {}
    if "root" in accepted:
        options["root"] = str(root / class_name)
    if name:
        if "name" not in accepted:
            raise UserError(f"{data}: {class_name} has no parts; write {PYG}{class_name}")
        options["name"] = name
    elif "name" in accepted and accepted["name"].default is inspect.Parameter.empty:
        raise UserError(f"{data}: {class_name} needs the name of a part: {PYG}{class_name}/<name>")
    try:
        graphs = list(factory(**options))
    except transfer_failures as error:
        raise UserError(
            f"{data}: cannot be had ({_one_line(error)}). Run once with network access, or put the "
            f"dataset's raw files under {root / class_name}"
        ) from error
    except (ImportError, TypeError, ValueError, LookupError, AssertionError, RuntimeError) as error:
        raise UserError(f"{data}: torch_geometric cannot load it ({_one_line(error)})") from error
    return _side_by_side(data, graphs)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _side_by_side(name: str, graphs: list[Any]) -> Network:
    offset, edges, places = 0, [], []
    for graph in graphs:
        if getattr(graph, "edge_index", None) is None:
            raise UserError(f"{name}: its graphs have no edge_index; choose a dataset of plain graphs")
        edges.append(graph.edge_index.numpy().T + offset)
        if getattr(graph, "pos", None) is not None and graph.pos.shape[1] >= 2:
            places.append(graph.pos[:, :2].numpy())
        offset += graph.num_nodes
    located = np.concatenate(places) if len(places) == len(graphs) > 0 else None
    if located is not None:
        if located.dtype.kind not in "iuf" or not np.isfinite(located).all():
            raise _wrong_places(name, "pos")
        located = located.astype(np.float64)
    joined = np.concatenate(edges) if edges else np.zeros((0, 2), dtype=np.int64)
    return Network(name, offset, joined, located)
