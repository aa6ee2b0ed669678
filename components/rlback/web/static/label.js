// Labelling by keys: the next comparison is at hand before it is needed, and "saved" is said when the server has it.
"use strict";
(() => {
  const root = document.getElementById("labelling");
  if (!root || !root.dataset.item) return;
  const { batch, csrf, second } = root.dataset;
  const at = (id) => document.getElementById(id);
  const form = at("choices");
  const keys = { 1: "left2", 2: "left1", 3: "equal", 4: "right1", 5: "right2", b: "both-bad", s: "skip" };
  let item = JSON.parse(root.dataset.item);
  let ahead = null;
  let busy = false;
  let began = performance.now();
  let renewed = Date.now();

  const key = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));

  // Three tries: the same key makes a repeated submission one label.
  async function post(act, fields) {
    for (let attempt = 0; ; attempt++) {
      let answer;
      try {
        answer = await fetch(`/label/${encodeURIComponent(batch)}/${act}`, {
          method: "POST",
          headers: { "content-type": "application/json", accept: "application/json", "x-csrf-token": csrf },
          body: JSON.stringify({ second, ...fields }),
        });
      } catch (lost) {
        if (attempt === 2) throw new Error("The console does not answer. Nothing is lost: choose again when it does.");
        await wait(500 * 2 ** attempt);
        continue;
      }
      if (answer.status === 503 && attempt < 2) { await wait(1000); continue; }
      const body = await answer.json();
      if (!answer.ok) throw new Error([body.error.message, body.error.remedy].filter(Boolean).join(". "));
      return body;
    }
  }

  function trouble(text) {
    at("trouble").textContent = text;
    at("trouble").hidden = !text;
  }

  // Texts are set as text, never as HTML.
  function shown(text) {
    const box = document.createElement("div");
    box.className = "model-text";
    box.dir = "auto";
    const span = (words, kind, into = box) => {
      const made = document.createElement("span");
      made.className = kind;
      made.textContent = words;
      into.append(made);
      return made;
    };
    const mark = (words, kind = "mark") => span(words, kind);
    const put = (pieces, into) => {
      for (const [kind, piece] of pieces) {
        if (kind === "mark") span(`⟦${piece}⟧`, "mark", into);
        else if (kind === "tool") {
          const tool = span("", "tool", into);
          tool.title = "written by a tool or the environment, not by the policy";
          span("[tool: ", "sr", tool);
          put(piece, tool);
          span("]", "sr", tool);
        } else into.append(piece);
      }
    };
    put(text.pieces, box);
    if (text.left) mark(`… ${text.left} more characters`, "mark end");
    if (text.finished === false) mark("cut off", "mark end");
    return box;
  }

  // A conversation is shown turn by turn.
  function conversation(text) {
    if (!text.turns || !text.turns.length) return shown(text);
    const all = document.createElement("div");
    all.className = "turns";
    for (const turn of text.turns) {
      const one = document.createElement("div"), role = document.createElement("span");
      one.className = "turn";
      role.className = "role";
      role.textContent = turn.role;
      one.append(role, shown(turn));
      all.append(one);
    }
    if (text.left) {
      const more = document.createElement("span");
      more.className = "mark end";
      more.textContent = `… ${text.left} more characters`;
      all.append(more);
    }
    return all;
  }

  let differing = false;
  function sides() {
    at("tools").hidden = ![...item.left.pieces, ...item.right.pieces].some(([kind]) => kind === "tool");
    for (const part of ["left", "right"]) at(part).replaceChildren(shown(item[part]));
    at("differences").setAttribute("aria-pressed", String(differing));
    if (differing && !window.differences(at("left").firstChild, at("right").firstChild)) trouble("These texts are too long to compare.");
  }

  function show(next) {
    item = next;
    form.hidden = !item;
    at("empty").hidden = !!item;
    if (!item) return;
    at("prompt").replaceChildren(conversation(item.prompt));
    sides();
    form.elements.comparison.value = item.comparison;
    form.elements.key.value = key();
    form.elements.rationale.value = "";
    for (const box of form.querySelectorAll("input[type=checkbox]")) box.checked = false;
    if (document.activeElement && document.activeElement !== document.body) document.activeElement.blur();
    began = performance.now();
    renewed = Date.now();
    window.scrollTo(0, 0);
  }

  function progress(found, saved) {
    at("labelled").textContent = found.labelled;
    at("bar").value = found.labelled;
    at("mine").textContent = found.mine;
    at("today").textContent = found.mine_today;
    at("pace").textContent = found.pace ? `, ${found.pace.toFixed(1)} a minute` : "";
    if (saved) at("saved").textContent = `saved ${new Date(saved).toLocaleTimeString("en-GB")}`;
  }

  const preload = () => { ahead = post("next", { without: item ? [item.comparison] : [] }).then((b) => b.item, () => undefined); };

  async function choose(choice) {
    if (busy || !item) return;
    const flags = Array.from(form.querySelectorAll("input[name=flags]:checked"), (box) => box.value);
    const rationale = form.elements.rationale.value;
    if (choice === "skip" && !rationale.trim()) { trouble("Say why you skip it, then press s again."); form.elements.rationale.focus(); return; }
    if (choice === "both-bad" && !flags.length) { trouble("Say with a flag what is wrong, then press b again."); form.querySelector("input[name=flags]").focus(); return; }
    busy = true;
    at("saved").textContent = "saving …";
    try {
      const seconds = (performance.now() - began) / 1000;
      const body = await post("submit", { comparison: item.comparison, choice, flags, rationale, seconds, key: form.elements.key.value });
      trouble("");
      progress(body.progress, body.saved.time);
      let next = await ahead;
      if (next === undefined) next = (await post("next", { without: [] })).item;
      show(next);
      if (item) preload();
    } catch (error) {
      at("saved").textContent = "not saved";
      trouble(error.message);
    } finally {
      busy = false;
    }
  }

  async function undo() {
    if (busy) return;
    busy = true;
    try {
      const body = await post("undo", { key: key() });
      trouble("");
      progress(body.progress, body.saved.time);
      at("saved").textContent = "taken back";
      show(body.item);
      preload();
    } catch (error) {
      trouble(error.message);
    } finally {
      busy = false;
    }
  }

  // Stays as chosen for the comparisons that follow.
  function differ() {
    differing = !differing;
    trouble("");
    sides();
  }
  at("differences").hidden = false;
  at("differences").addEventListener("click", differ);

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (event.submitter && event.submitter.id === "undo") undo();
    else if (event.submitter) choose(event.submitter.value);
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const typing = event.target.matches("textarea, input:not([type=checkbox])");
    if (event.key === "Escape" && document.activeElement) { document.activeElement.blur(); return; }
    if (typing || event.repeat) return;
    const pressed = event.key.toLowerCase();
    if (pressed in keys) choose(keys[pressed]);
    else if (pressed === "u") undo();
    else if (pressed === "d") differ();
    else if (pressed === "f") form.querySelector("input[name=flags]").focus();
    else if (pressed === "g" && at("guideline")) at("guideline").click();
    else if (pressed === "r") form.elements.rationale.focus();
    else return;
    event.preventDefault();
  });

  // A lease lives ten minutes; while somebody is active it is renewed every two.
  for (const sign of ["keydown", "pointerdown", "scroll"]) {
    document.addEventListener(sign, () => {
      if (item && Date.now() - renewed > 120000) {
        renewed = Date.now();
        post("renew", { comparison: item.comparison }).then((b) => {
          if (!b.yours) trouble("Somebody else has this comparison now; your label will be a second opinion.");
        }, () => {});
      }
    }, { passive: true });
  }

  preload();
})();
