// Live updates, keyboard and small conveniences. Every page works without this script.
"use strict";

const PAUSE_MS = 200, RECONNECT_MS = 3000;

// Pages with data-live are fetched again when a run changes, and only while they are visible. With
// data-run, only changes of that run count. The server sends changes once a second.
function watch(main) {
  let due = false, busy = false, source = null;
  async function refresh() {
    if (busy) { due = true; return; }
    busy = true; due = false;
    try {
      const response = await fetch(location.href, { headers: { "X-Wesemu-Refresh": "1" } });
      if (response.ok && !response.redirected) replace(await response.text());
    } catch { /* the server is gone; the next event comes when it is back */ }
    setTimeout(() => { busy = false; if (due) refresh(); }, PAUSE_MS);
  }
  function connect() {
    source = new EventSource(main.dataset.live);
    source.addEventListener("run", (event) => {
      const run = document.getElementById("main").dataset.run;
      if (!run || run === event.data) refresh();
    });
    // what changed while there was no connection
    source.addEventListener("ready", () => { showOffline(false); refresh(); });
    source.addEventListener("error", () => {
      showOffline(true);
      // A browser tries again by itself, but not after an answer with an error, such as a proxy's.
      if (source?.readyState === EventSource.CLOSED) setTimeout(reconnect, RECONNECT_MS, source);
    });
  }
  function reconnect(closed) {
    if (source === closed) connect();
  }
  function showOffline(offline) {
    document.getElementById("offline").textContent = offline
      ? "The server does not answer. This page is as it was at the last update." : "";
  }
  // Hidden pages hold no connection: a browser has six for all its pages of a server.
  document.addEventListener("visibilitychange", () => {
    source?.close();
    source = null;
    if (!document.hidden) connect();
  });
  if (!document.hidden) connect();
}

// Replaces the content, unless the user is typing or choosing in it.
function replace(html) {
  const main = document.getElementById("main");
  const focused = document.activeElement;
  if (main.contains(focused) && focused.matches("input, select, textarea")) return;
  const fresh = new DOMParser().parseFromString(html, "text/html").getElementById("main");
  if (fresh.innerHTML === main.innerHTML) return;
  const offsets = [...main.querySelectorAll("pre")].map((pre) => [pre.scrollTop, atEnd(pre)]);
  main.replaceWith(fresh);
  prepare(fresh);
  fresh.querySelectorAll("pre").forEach((pre, number) => {
    const [top, followed] = offsets[number] ?? [0, false];
    pre.scrollTop = followed ? pre.scrollHeight : top;
  });
}

const atEnd = (pre) => pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 4;

function prepare(main) {
  for (const form of main.querySelectorAll("form[data-confirm]")) {
    form.addEventListener("submit", (event) => {
      if (!confirm(form.dataset.confirm)) event.preventDefault();
    });
  }
  for (const choice of main.querySelectorAll("select[data-submit]")) {
    choice.addEventListener("change", () => choice.form.requestSubmit());
  }
  for (const form of main.querySelectorAll("form[data-progress]")) {
    form.addEventListener("submit", (event) => { event.preventDefault(); upload(form); });
  }
  // browsers have a clipboard on https and 127.0.0.1 only
  for (const text of navigator.clipboard ? main.querySelectorAll("[data-copy]") : []) {
    const button = document.createElement("button");
    button.type = "button"; button.className = "copy"; button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy ${text.textContent}`);
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    });
    text.after(button);
  }
}

// Sends a form and shows how much of it is sent; then shows the page that the server answers with.
function upload(form) {
  const bar = document.createElement("progress"), sending = new XMLHttpRequest();
  const button = form.querySelector("button");
  bar.max = 1; bar.value = 0; bar.setAttribute("aria-label", "Sent");
  button.disabled = true; button.after(bar);
  sending.upload.addEventListener("progress", (event) => {
    if (event.lengthComputable) bar.value = event.loaded / event.total;
  });
  sending.addEventListener("load", () => {
    if (sending.status < 400) { location.href = sending.responseURL; return; }
    document.activeElement.blur();
    replace(sending.responseText);
  });
  sending.addEventListener("error", () => {
    bar.remove(); button.disabled = false;
    alert("The upload was interrupted. Send the files again.");
  });
  sending.open("POST", form.action);
  sending.send(new FormData(form));
}

// Keyboard: "/" search, "j" and "k" next and previous row, Enter opens it, "g" then "r", "b", "n".
let chosen = -1, going = false;
const PLACES = { r: ".", b: "buckets", n: "node" };  // below the first page

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select, textarea")) return;
  if (going) {
    going = false;
    if (PLACES[event.key]) location.href = new URL(PLACES[event.key], document.querySelector(".brand").href);
    return;
  }
  const rows = [...document.querySelectorAll(".rows tbody tr")];
  switch (event.key) {
    case "/": {
      const search = document.querySelector("[data-search]");
      if (search) { event.preventDefault(); search.focus(); }
      break;
    }
    case "g": going = true; break;
    case "j": case "k":
      chosen = Math.max(0, Math.min(rows.length - 1, chosen + (event.key === "j" ? 1 : -1)));
      rows.forEach((row, number) => row.classList.toggle("chosen", number === chosen));
      rows[chosen]?.scrollIntoView({ block: "nearest" });
      break;
    case "Enter":
      if (event.target === document.body) rows[chosen]?.querySelector("a")?.click();
      break;
  }
});

const main = document.getElementById("main");
prepare(main);
for (const pre of main.querySelectorAll("pre[data-follow]")) pre.scrollTop = pre.scrollHeight;
if (main.dataset.live) watch(main);
