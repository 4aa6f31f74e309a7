// A report in one file: the page with its data inside.
import { Page } from "./page.js";
import { carried } from "./sources.js";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const data = JSON.parse(document.getElementById("data").textContent);
const theme = () => (dark.matches ? "dark" : "light");
const page = new Page(document.getElementById("page"), carried(data), theme());
dark.addEventListener("change", () => page.setTheme(theme()));
page.reload();
