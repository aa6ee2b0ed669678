// Practice by the keys of the label page.
"use strict";
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const buttons = document.querySelectorAll("#choices button");
  const button = buttons[Number(event.key) - 1];
  if (button) { event.preventDefault(); button.click(); }
});
