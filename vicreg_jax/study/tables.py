"""Collects the results of a suite's runs, and writes its table."""

import csv
import dataclasses
import io
import json
import statistics
import sys

from vicreg_jax import files, plots
from vicreg_jax.study import plan


@dataclasses.dataclass(frozen=True)
class Results:
  """The results of a suite's runs.

  Attributes:
    rows: {"labels", "scores", "spread", "thesis", "extra"} for each row of the
      table; scores by head and metric in percent, None where a run is missing.
    points, metrics, heads: those of the suite.
    root: its --workdir.
  """

  rows: list[dict]
  points: list[plan.Point]
  metrics: tuple[str, ...]
  root: str
  heads: tuple[str, ...] = tuple(plan.HEADS)

  def metrics_path(self, point: plan.Point) -> str | None:
    """metrics.jsonl of a point's run; None if there is none."""
    path = f"{self.root}/{point.jobs[0].workdir}/metrics.jsonl"
    return path if files.exists(path) else None


def collect(suite: plan.Suite, root: str) -> Results:
  """Reads the results of finished runs."""
  groups = {}
  for point in suite.points:
    groups.setdefault(tuple(point.labels.items()), []).append(point)
  rows = []
  for labels, points in groups.items():
    scores = [s for p in points if (s := _scores(p, suite.metrics, root))]
    extra = [
      suite.measure(f"{root}/{p.jobs[0].workdir}", p.epoch)
      for p in points
      if suite.measure and p.jobs
    ]
    rows.append(
      {
        "labels": dict(labels),
        "scores": _over(scores, statistics.fmean) if scores else None,
        "spread": _over(scores, statistics.stdev) if scores[1:] else None,
        "repetitions": len(scores),
        "thesis": points[0].thesis,
        "extra": extra[0] if extra else {},
      }
    )
  return Results(rows, suite.points, suite.metrics, root, suite.heads)


def _scores(point, metrics, root) -> dict | None:
  """The scores of a point's last job, if there are any."""
  if not (point.jobs and point.heads):
    return None
  found = read_json(f"{root}/{point.jobs[-1].workdir}/probe.json")
  if found is None:
    return None
  means = {
    f"splits/{name}": {m: scores[m]["mean"] for m in metrics if m in scores}
    for name, scores in found.get("splits", {}).items()
    if name != "count"
  }
  found = found | means
  return {
    head: {m: found[name][m] for m in metrics if m in found[name]}
    for head, name in point.heads.items()
    if name in found
  }


def _over(scores, reduce) -> dict:
  return {
    head: {m: reduce(s[head][m] for s in scores) for m in values}
    for head, values in scores[0].items()
  }


def cells(row: dict, suite: plan.Suite) -> list[dict]:
  """The numbers of a row: ours, spread, thesis and difference."""
  found = []
  for metric in suite.metrics:
    for head in suite.heads:
      ours, spread, thesis = (
        (row[source] or {}).get(head, {}).get(metric)
        for source in ("scores", "spread", "thesis")
      )
      both = ours is not None and thesis is not None
      found.append(
        {
          "metric": metric,
          "head": head,
          "ours": ours,
          "spread": spread,
          "thesis": thesis,
          "difference": ours - thesis if both else None,
        }
      )
  return found


def markdown(suite: plan.Suite, results: Results, stamp: str) -> str:
  """The table: a line a row, ours beside the thesis's and the difference."""
  names = list(results.rows[0]["labels"])
  has_thesis = any(row["thesis"] for row in results.rows)
  extra = list(dict.fromkeys(k for row in results.rows for k in row["extra"]))
  kinds = (": ours", ": thesis", ": difference") if has_thesis else ("",)
  heads = [
    f"{plots.SCORES[cell['metric']]} {cell['head']}{kind}"
    for cell in cells(results.rows[0], suite)
    for kind in kinds
  ]
  if not any(row["scores"] or row["thesis"] for row in results.rows):
    heads = []
  columns = [*names, *heads, *extra]
  body = [columns, ["---"] * len(columns)]
  for row in results.rows:
    line = [str(row["labels"].get(name, "")) for name in names]
    for cell in cells(row, suite) if heads else ():
      line.append(_number(cell["ours"], cell["spread"]))
      if has_thesis:
        line.append(_number(cell["thesis"]))
        line.append(_number(cell["difference"], sign="+"))
    line += [_number(row["extra"].get(name), digits=4) for name in extra]
    body.append(line)
  table = "\n".join(f"| {' | '.join(line)} |" for line in body)
  note = f"\n\n{stamp}" if stamp else ""
  return f"# {suite.title}{note}\n\n{table}\n"


def _number(value, spread=None, digits=2, sign=""):
  if value is None:
    return "-"
  text = f"{value:{sign}.{digits}f}"
  return text if spread is None else f"{text} ± {spread:.{digits}f}"


def table_csv(suite: plan.Suite, results: Results) -> str:
  """A line a number."""
  names = list(results.rows[0]["labels"])
  out = io.StringIO(newline="")
  write = csv.writer(out)
  numbers = ("metric", "head", "ours", "spread", "thesis", "difference")
  write.writerow([*names, *numbers, "repetitions"])
  for row in results.rows:
    labels = [row["labels"].get(name, "") for name in names]
    for cell in cells(row, suite):
      if cell["ours"] is not None or cell["thesis"] is not None:
        values = (cell[k] for k in numbers)
        write.writerow(
          [*labels]
          + [f"{v:.4f}" if isinstance(v, float) else v for v in values]
          + [row["repetitions"]]
        )
    for name, value in row["extra"].items():
      write.writerow([*labels, name, "", value, "", "", "", ""])
  return out.getvalue()


def report(suite: plan.Suite, name: str, root: str, scale: plan.Scale):
  """Writes table and figure, and prints the table."""
  results, stamp = collect(suite, root), plan.STAMP if scale.smoke else ""
  text = markdown(suite, results, stamp)
  write(f"{root}/{name}/table.md", text)
  write(f"{root}/{name}/table.csv", table_csv(suite, results))
  print(text)
  print(f"table: {root}/{name}/table.md")
  try:
    suite.draw(results, f"{root}/{name}/{name}", stamp=stamp)
  except ValueError as e:
    print(f"no figure yet: {e}", file=sys.stderr)
  else:
    print(f"figure: {root}/{name}/{name}.png")


def read_json(path) -> dict | None:
  """A file's object; None without a file, or, with a warning, without one."""
  if not files.exists(path):
    return None
  try:
    found = json.loads(files.read(path))
    if isinstance(found, dict):
      return found
  except ValueError:
    pass
  print(f"warning: {path} is damaged and does not count", file=sys.stderr)
  return None


def write(path, text):
  """Writes a file of the suite, or raises ValueError with a remedy."""
  with files.explained(path):
    files.write(path, text.encode())
