// Starts igv.js with the configuration that the page contains.
"use strict";

const viewer = document.getElementById("viewer");
// A proxy may have put a path before that of the server's pages.
const below = (path) => new URL(path.replace("/ui/", ""), document.querySelector(".brand").href).href;
const config = JSON.parse(viewer.dataset.config, (name, value) =>
  typeof value === "string" && value.startsWith("/ui/") ? below(value) : value);
igv.createBrowser(viewer, config)
  .then(() => { viewer.dataset.ready = "true"; })
  .catch((error) => { viewer.textContent = `The viewer failed: ${error.message ?? error}`; });
