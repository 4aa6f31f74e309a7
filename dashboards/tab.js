// The tab of TensorBoard: the page in its frame, told when to look again and whether it is dark.
import { Page } from "./page.js";
import { served } from "./sources.js";

export async function render() {
  document.documentElement.lang = "en";
  document.title = "GradWatch";
  for (const file of ["vendor/uplot/uPlot.min.css", "page.css"]) {
    const link = document.createElement("link");
    link.rel = "stylesheet";
    link.href = new URL(file, import.meta.url).href;
    const loaded = new Promise((resolve) => (link.onload = link.onerror = resolve));
    document.head.append(link);
    await loaded;
  }
  const page = new Page(document.body, served(new URL("../", import.meta.url).href), theme());
  whenDark(() => page.setTheme(theme()));
  onReload(() => page.reload());
  await page.reload();
}

function theme() {
  try {
    return window.parent.document.body.classList.contains("dark-mode") ? "dark" : "light";
  } catch {
    return "light"; // the frame of someone else
  }
}

function whenDark(changed) {
  try {
    const body = window.parent.document.body;
    new MutationObserver(changed).observe(body, { attributes: true, attributeFilter: ["class"] });
  } catch {
    // likewise
  }
}

/** TensorBoard's reload button and auto-reload, by its messages to the frames of plugins. */
function onReload(reload) {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = async (event) => {
    const message = JSON.parse(event.data);
    if (message.isReply) return;
    if (message.type === "experimental.DataReloaded") reload();
    port1.postMessage(JSON.stringify({ type: message.type, id: message.id, payload: null, error: null, isReply: true }));
  };
  window.parent.postMessage("experimental.bootstrap", "*", [port2]);
}
