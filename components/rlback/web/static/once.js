// A form that is sent once: the buttons are locked after the first press (the server would take it for one anyway).
"use strict";
for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", () => setTimeout(() => {
    for (const button of form.querySelectorAll("button")) button.disabled = true;
  }, 0));
}
