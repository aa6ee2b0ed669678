// Sends a file of labels as it is, and says what came of it.
"use strict";
(() => {
  const form = document.getElementById("import");
  if (!form) return;
  const told = document.getElementById("imported");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const file = form.elements.file.files[0];
    const say = (text, good) => { told.hidden = false; told.textContent = text; told.className = good ? "said" : "trouble"; };
    const asked = new URLSearchParams({ form: form.elements.form.value, annotator: form.elements.annotator.value, name: file.name });
    say("reading …", true);
    try {
      const answer = await fetch(`/campaigns/${encodeURIComponent(form.elements.campaign.value)}/import?${asked}`, {
        method: "POST", body: file,
        headers: { "content-type": "application/octet-stream", accept: "application/json", "x-csrf-token": form.dataset.csrf },
      });
      const body = await answer.json();
      if (!answer.ok) { say(`${body.error.message}. ${body.error.remedy || ""}`, false); return; }
      const counted = Object.entries(body.counts).map(([what, n]) => `${n} ${what}`).join(", ");
      say(`Import ${body.number}: ${body.labels} labels (${counted}).${body.batch ? ` New batch ${body.batch}.` : ""}`, true);
    } catch (lost) {
      say("The console does not answer. Look at the imports below before you send the file again.", false);
    }
  });
})();
