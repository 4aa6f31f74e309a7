// The entry of an HTML report: the page with its data inside.
import { addressOf } from "./data/address.js";
import { carried } from "./data/sources.js";
import { Page } from "./page.js";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const theme = () => (dark.matches ? "dark" : "light");
const [root, data] = ["page", "data"].map((id) => /** @type {HTMLElement} */ (document.getElementById(id)));
const page = new Page(root, carried(JSON.parse(data.textContent ?? "")), theme(), addressOf(window));
dark.addEventListener("change", () => page.setTheme(theme()));
page.reload();
