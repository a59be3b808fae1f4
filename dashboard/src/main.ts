import { mount } from "svelte";

import App from "./App.svelte";
import "./app.css";
import { applyTheme } from "./lib/theme.svelte";

applyTheme();

// A file of an older program than the one that now answers: the page has to be the node's own.
window.addEventListener("vite:preloadError", () => window.location.reload());

const target = document.getElementById("app");
if (target === null) throw new Error("index.html has no #app");
mount(App, { target });
