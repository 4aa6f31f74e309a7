import assert from "node:assert/strict";
import { test } from "node:test";
import { follow } from "../../dashboards/data/follow.js";

/** @param {{ recording: boolean, seen?: boolean, takes?: number }} given */
function watched({ recording, seen = true, takes = 0 }) {
  const page = { looks: 0, recording, seen, clock: 0 };
  const begin = () =>
    follow(
      {
        reload: async () => {
          page.looks++;
          page.clock += takes;
        },
        isRecording: () => page.recording,
        isSeen: () => page.seen,
      },
      () => page.clock,
    );
  return { page, begin };
}

test("a run that is being recorded is looked at every two seconds, others every ten", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const tick = async (/** @type {number} */ ms) => {
    context.mock.timers.tick(ms);
    for (let i = 0; i < 5; i++) await Promise.resolve();
  };
  const { page, begin } = watched({ recording: true });
  await begin();
  assert.equal(page.looks, 1);
  await tick(1999);
  assert.equal(page.looks, 1);
  await tick(1);
  assert.equal(page.looks, 2);
  page.recording = false;
  await tick(2000);
  assert.equal(page.looks, 3);
  await tick(9999);
  assert.equal(page.looks, 3);
  await tick(1);
  assert.equal(page.looks, 4);
});

test("a page that is not seen asks for nothing until it is", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const { page, begin } = watched({ recording: true, seen: false });
  await begin();
  assert.equal(page.looks, 0);
  page.seen = true;
  context.mock.timers.tick(2000);
  await Promise.resolve();
  assert.equal(page.looks, 1);
});

test("a run that takes long to read is looked at less often, but for the first look, which reads all of it", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const tick = async (/** @type {number} */ ms) => {
    context.mock.timers.tick(ms);
    for (let i = 0; i < 5; i++) await Promise.resolve();
  };
  const { page, begin } = watched({ recording: true, takes: 3000 });
  await begin();
  await tick(1999);
  assert.equal(page.looks, 1);
  await tick(1);
  assert.equal(page.looks, 2);
  await tick(14_999);
  assert.equal(page.looks, 2);
  await tick(1);
  assert.equal(page.looks, 3);
});

test("the first look is the first one at a page that is seen", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const tick = async (/** @type {number} */ ms) => {
    context.mock.timers.tick(ms);
    for (let i = 0; i < 5; i++) await Promise.resolve();
  };
  const { page, begin } = watched({ recording: true, seen: false, takes: 3000 });
  await begin();
  page.seen = true;
  await tick(2000);
  assert.equal(page.looks, 1);
  await tick(2000);
  assert.equal(page.looks, 2);
  await tick(2000);
  assert.equal(page.looks, 2);
});
