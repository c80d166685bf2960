"use strict";
// Fills in every [data-path] from /v1/status. What the values mean was decided by the server.
(() => {
  const csrf = document.body.dataset.csrf;
  const live = document.getElementById("live");
  const at = (data, path) => path.split(".").reduce((value, step) => {
    if (value === null || value === undefined) return undefined;
    return Array.isArray(value) && !/^\d+$/.test(step)
      ? value.find((entry) => entry.store === step) : value[step];
  }, data);
  const shown = (value, form) => {
    if (value === null || value === undefined) return "–";
    if (form === "bytes") {
      const units = ["B", "KiB", "MiB", "GiB"];
      let unit = 0;
      while (value >= 1024 && unit < 3) { value /= 1024; unit += 1; }
      return (unit ? value.toFixed(1) : String(value)) + " " + units[unit];
    }
    if (form === "seconds") {
      const s = value % 60, m = Math.floor(value / 60) % 60, h = Math.floor(value / 3600);
      return h ? `${h} h ${m} min` : m ? `${m} min ${s} s` : `${s} s`;
    }
    return typeof value === "number" ? value.toLocaleString("en-US") : String(value);
  };
  const show = (status) => {
    for (const element of document.querySelectorAll("[data-path]")) {
      const text = shown(at(status, element.dataset.path), element.dataset.form);
      if (element.textContent !== text) element.textContent = text;
    }
    for (const element of document.querySelectorAll("[data-tag]")) {
      const value = at(status, element.dataset.tag);
      const [tone, word] = {
        "closed": ["good", "answering"],
        "open": ["bad", "not answering"],
        "half-open": ["bad", "being probed"],
        "forced-open": ["warn", "held by an operator"],
        "forced-closed": ["warn", "forced closed"],
      }[value] ?? ["quiet", "unknown"];
      element.className = "tag " + tone;
      element.textContent = word;
    }
    document.getElementById("verdict").className = "verdict " + status.verdict.level;
  };
  const poll = async () => {
    try {
      const answer = await fetch("/v1/status", { headers: { accept: "application/json" } });
      if (answer.status === 401) { location.reload(); return; }
      if (!answer.ok) throw new Error(String(answer.status));
      show(await answer.json());
      live.textContent = "Live";
      live.className = "tag good";
    } catch {
      live.textContent = "No answer from the server";
      live.className = "tag bad";
    }
    setTimeout(poll, document.hidden ? 10000 : 2000);
  };
  setTimeout(poll, 1000);
  document.getElementById("logout").addEventListener("click", async () => {
    await fetch("/logout", { method: "POST", headers: { "x-csrf-token": csrf } });
    location.reload();
  });
})();
