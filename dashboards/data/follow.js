// Looks for new steps and runs, as long as the page is seen.

const OFTEN = 2000; // ms between two looks while a run is being recorded
const SELDOM = 10_000; // ms between two looks while none is
const SHARE = 5; // times as long as the last look took: a long run is not asked for all the time

/**
 * Reloads at once, and again and again. A look begins only when the last one is over. How long the first one took is
 * not counted: the server reads a whole run then, and later only what is new.
 *
 * @param {object} page
 * @param {() => Promise<void>} page.reload
 * @param {() => boolean} page.isRecording whether a run is being recorded
 * @param {() => boolean} page.isSeen whether anybody can see the page
 * @param {() => number} [now] ms
 * @param {number} [share]
 */
export async function follow({ reload, isRecording, isSeen }, now = () => performance.now(), share = 0) {
  const began = now();
  const looks = isSeen();
  if (looks) await reload();
  const pause = Math.max(isRecording() ? OFTEN : SELDOM, share * (now() - began));
  setTimeout(() => follow({ reload, isRecording, isSeen }, now, looks ? SHARE : share), pause);
}
