// Starts igv.js with the configuration that the page contains.
"use strict";

const viewer = document.getElementById("viewer");
igv.createBrowser(viewer, JSON.parse(viewer.dataset.config))
  .then(() => { viewer.dataset.ready = "true"; })
  .catch((error) => { viewer.textContent = `The viewer failed: ${error.message ?? error}`; });
