(() => {
  "use strict";
  // Without script the commands can still be selected by hand, so the buttons start hidden.
  function selectAndCopy(code) {
    const range = document.createRange();
    range.selectNodeContents(code);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    return document.execCommand("copy");
  }
  for (const button of document.querySelectorAll("button[data-copy]")) {
    const code = button.parentElement.querySelector("code");
    button.hidden = false;
    button.addEventListener("click", async () => {
      let copied = false;
      try {
        await navigator.clipboard.writeText(code.textContent);
        copied = true;
      } catch {
        // The clipboard is closed to some pages opened from disk; the selection is not.
        copied = selectAndCopy(code);
      }
      button.textContent = copied ? "Copied" : "Selected";
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    });
  }
  document.documentElement.dataset.ready = "true";
})();
