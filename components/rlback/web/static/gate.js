// A decline and a call for more labels need a reason: the browser says so before the server would.
"use strict";
(() => {
  const form = document.getElementById("decision");
  if (!form) return;
  const reason = form.elements.reason;
  form.addEventListener("submit", (event) => {
    const needed = event.submitter && event.submitter.value !== "approve";
    reason.setCustomValidity(needed && !reason.value.trim() ? "Say why" : "");
    if (!reason.reportValidity()) {
      event.preventDefault();
      return;
    }
    // The verdict is part of the form only while its button is; the buttons are locked after it is read.
    setTimeout(() => { for (const button of form.querySelectorAll("button")) button.disabled = true; }, 0);
  });
  reason.addEventListener("input", () => reason.setCustomValidity(""));
})();
