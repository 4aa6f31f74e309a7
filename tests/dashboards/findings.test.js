import assert from "node:assert/strict";
import { test } from "node:test";
import { evidenceOf, headline, namesOf, ownerText } from "../../dashboards/findings/text.js";
import { withFinding } from "../../dashboards/state/lead.js";
import { INITIAL } from "../../dashboards/state/state.js";
import { finding, overview } from "./support.js";

test("the headline is the first finding that is more than information", () => {
  const [info, warning, critical] = [
    finding({ severity: "info" }),
    finding({ severity: "warning" }),
    finding({ severity: "critical" }),
  ];
  assert.equal(headline([info, warning, critical]), warning);
  assert.equal(headline([info]), null);
  assert.equal(headline([]), null);
});

test("three parameters are named and the others are counted", () => {
  assert.deepEqual(namesOf(finding()), { named: [], more: 0 });
  assert.deepEqual(namesOf(finding({ parameters: ["a", "b", "c"] })), { named: ["a", "b", "c"], more: 0 });
  assert.deepEqual(namesOf(finding({ parameters: ["a", "b", "c", "d", "e"] })), { named: ["a", "b", "c"], more: 2 });
});

test("an optimizer is named where there are several, and a rank where one is known, 0 included", () => {
  assert.equal(ownerText(finding(), false), "");
  assert.equal(ownerText(finding({ optimizer: "critic" }), true), "optimizer critic");
  assert.equal(ownerText(finding({ optimizer: null, rank: 0 }), true), "rank 0");
});

test("evidence keeps steps whole, has its unit where its name does not say it, and says what is not known", () => {
  const evidence = {
    last_step: { value: 123456, unit: "step" },
    norm_before: { value: 0.00123456, unit: "norm" },
    loss_last: { value: 3.250809e34, unit: "loss" },
    loss: { value: "NaN", unit: "loss" },
    fault: { value: null, unit: "cause" },
  };
  assert.deepEqual(evidenceOf(finding({ evidence })), [
    ["last step", "123,456"],
    ["norm before", "0.00123"],
    ["loss last", "3.25e34"],
    ["loss", "NaN"],
    ["fault", "not known (cause)"],
  ]);
});

test("a finding leads to its optimizer, its steps and the parameter asked for", () => {
  const run = overview({ optimizers: ["0", "critic"] });
  const state = { ...INITIAL, focus: "a", slots: ["a"], filter: "decoder", layer: "x", event: "kept" };
  const there = withFinding(state, finding({ optimizer: "critic", steps: [500, 510] }), "encoder.0", run);
  assert.deepEqual(
    [there.optimizers, there.zoom, there.layer, there.filter, there.event],
    [{ a: "critic" }, [460, 550], "encoder.0", "", "kept"],
  );
  const whole = withFinding({ ...state, zoom: [3, 9] }, finding({ optimizer: null }), null, run);
  assert.deepEqual([whole.optimizers, whole.zoom, whole.layer, whole.filter], [{}, [3, 9], "x", "decoder"]);
});
