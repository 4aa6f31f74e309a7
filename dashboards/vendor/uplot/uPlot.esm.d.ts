// The types of the package that this file was taken from; only the type checker reads this.
export { default } from "uplot";
