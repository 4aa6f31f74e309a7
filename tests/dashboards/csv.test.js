import assert from "node:assert/strict";
import { test } from "node:test";
import { layersCsv, seriesCsv } from "../../dashboards/export/csv.js";
import { INITIAL } from "../../dashboards/state/state.js";
import { LAYERS, series, tile } from "./support.js";

test("series in view have a line for each run and column, with all digits, and empty cells for what is unknown", () => {
  const runs = {
    a: series(4, { "total_norm.high": [1, 1.23456789012, NaN, 1e300], nonfinite: [0, 0, 1, 0] }),
    b: series(2, { "loss.high": [-0.5, 3] }),
  };
  const [head, ...lines] = seriesCsv(runs, [0.5, 2.5]).trimEnd().split("\r\n");
  const names = head.split(",");
  assert.deepEqual(names.slice(0, 3), ["run", "first_step", "last_step"]);
  const cells = lines.map((line) => Object.fromEntries(line.split(",").map((cell, i) => [names[i], cell])));
  assert.deepEqual(
    cells.map(({ run, first_step, total_norm_high, loss_high }) => [run, first_step, total_norm_high, loss_high]),
    [
      ["a", "1", "1.23456789012", ""],
      ["a", "2", "", ""],
      ["b", "1", "", "3"],
    ],
  );
  assert.equal(cells[1].nonfinite, "1");
});

test("layers in view have the rows of the heat map: filtered, and relative to their median", () => {
  const shown = tile("norm", [
    [2, 1, 1],
    [4, -1, Infinity],
  ]);
  const view = {
    tile: shown,
    stat: "relative",
    layers: LAYERS,
    state: INITIAL,
    range: /** @type {[number, number]} */ ([-0.5, 1.5]),
  };
  assert.equal(
    layersCsv(view),
    "first_step,last_step,encoder.0.weight,encoder.0.bias,head.weight\r\n0,0,1,,1\r\n1,1,2,,inf\r\n",
  );
  const filtered = layersCsv({ ...view, stat: "norm", state: { ...INITIAL, filter: "head" }, range: [0.6, 1.5] });
  assert.equal(filtered, "first_step,last_step,head.weight\r\n1,1,inf\r\n");
});

test("a name is never a formula, and its commas and quotes stay", () => {
  const runs = Object.fromEntries(["=cmd()", "@x", "+1+2", "-a", 'a,"b"'].map((name) => [name, series(1)]));
  const firsts = seriesCsv(runs, [-0.5, 0.5])
    .split("\r\n")
    .slice(1, -1)
    .map((line) => line.replace(/,0,0,.*/, ""));
  assert.deepEqual(firsts, ["'=cmd()", "'@x", "'+1+2", "'-a", '"a,""b"""']);
  assert.match(seriesCsv({ a: series(1, { "loss.high": [-1.5] }) }, [-0.5, 0.5]), /,-1\.5,/);
});
