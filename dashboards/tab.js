// The entry of TensorBoard's tab: the page in a frame, told when to look again and whether TensorBoard is dark.
/** @import { Theme } from "./types.d.ts" */
import { addressOf, noAddress } from "./data/address.js";
import { served } from "./data/sources.js";
import { Page } from "./page.js";

const STYLES = ["vendor/uplot/uPlot.min.css", "page.css"];

/** Called by TensorBoard once it has loaded this file into the frame. */
export async function render() {
  document.documentElement.lang = "en";
  document.title = "GradWatch";
  for (const file of STYLES) await loadStyle(new URL(file, import.meta.url).href);
  const page = new Page(document.body, served(new URL("../", import.meta.url).href), theme(), address());
  whenThemeChanges(() => page.setTheme(theme()));
  whenReloaded(() => page.reload());
  await page.reload();
}

/** @param {string} href */
function loadStyle(href) {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = href;
  const loaded = new Promise((resolve) => {
    link.onload = link.onerror = resolve;
  });
  document.head.append(link);
  return loaded;
}

/** @returns {Theme} */
function theme() {
  try {
    return window.parent.document.body.classList.contains("dark-mode") ? "dark" : "light";
  } catch {
    return "light"; // the frame belongs to a page of another origin
  }
}

/** TensorBoard's own address: it names the tab first. */
function address() {
  try {
    return window.parent.document ? addressOf(window.parent, "gradwatch&") : noAddress();
  } catch {
    return noAddress(); // likewise
  }
}

/** @param {() => void} changed */
function whenThemeChanges(changed) {
  try {
    const { body } = window.parent.document;
    new MutationObserver(changed).observe(body, { attributes: true, attributeFilter: ["class"] });
  } catch {
    // likewise
  }
}

/**
 * TensorBoard's reload button and its automatic reload: it sends messages to the frames of plugins.
 *
 * @param {() => void} reload
 */
function whenReloaded(reload) {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.isReply) return;
    if (message.type === "experimental.DataReloaded") reload();
    port1.postMessage(
      JSON.stringify({ type: message.type, id: message.id, payload: null, error: null, isReply: true }),
    );
  };
  window.parent.postMessage("experimental.bootstrap", "*", [port2]);
}
