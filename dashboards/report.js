// The entry of an HTML report: the page with its data inside.
import { addressOf, noAddress } from "./data/address.js";
import { carried } from "./data/sources.js";
import { Page } from "./page.js";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const theme = () => (dark.matches ? "dark" : "light");
const [root, data] = ["page", "data"].map((id) => /** @type {HTMLElement} */ (document.getElementById(id)));
const source = carried(JSON.parse(data.textContent ?? ""));
const inNotebook = window.location.protocol === "about:"; // its frame has no address to keep a state or to link to
const address = inNotebook ? { ...noAddress(), href: () => "" } : addressOf(window);
const first = source.several ? "runs=table" : ""; // of many runs the reader sees the table at first
const page = new Page(root, source, theme(), { ...address, read: () => address.read() || first });
dark.addEventListener("change", () => page.setTheme(theme()));
page.reload();
