// Which words of two texts the other has not, by the longest common subsequence of words.
"use strict";
window.differences = (() => {
  const MOST = 1500;
  const words = (text) => text.match(/\s+|[^\s]+/g) || [];
  const bare = (list) => list.filter((word) => word.trim());

  // For each text the places (among its words) that are not common; null where a text is too long to compare.
  function places(one, other) {
    const a = bare(words(one)), b = bare(words(other));
    if (a.length > MOST || b.length > MOST) return null;
    const wide = b.length + 1;
    const table = new Uint16Array((a.length + 1) * wide);
    for (let i = a.length - 1; i >= 0; i--) {
      for (let j = b.length - 1; j >= 0; j--) {
        table[i * wide + j] = a[i] === b[j] ? table[(i + 1) * wide + j + 1] + 1
          : Math.max(table[(i + 1) * wide + j], table[i * wide + j + 1]);
      }
    }
    const mine = new Set(a.keys()), theirs = new Set(b.keys());
    for (let i = 0, j = 0; i < a.length && j < b.length;) {
      if (a[i] === b[j]) { mine.delete(i++); theirs.delete(j++); }
      else if (table[(i + 1) * wide + j] >= table[i * wide + j + 1]) i++;
      else j++;
    }
    return [mine, theirs];
  }

  // Wraps the words at these places in <mark>; what stands in other elements (marks of hidden characters) stays.
  function wrap(box, chosen) {
    let place = 0;
    for (const node of Array.from(box.childNodes)) {
      if (node.nodeType !== Node.TEXT_NODE) continue;
      const made = document.createDocumentFragment();
      for (const word of words(node.data)) {
        if (word.trim() && chosen.has(place++)) {
          const mark = document.createElement("mark");
          mark.textContent = word;
          made.append(mark);
        } else made.append(word);
      }
      node.replaceWith(made);
    }
  }

  const text = (box) => Array.from(box.childNodes).filter((n) => n.nodeType === Node.TEXT_NODE).map((n) => n.data).join(" ");

  return (left, right) => {
    const found = places(text(left), text(right));
    if (!found) return false;
    wrap(left, found[0]);
    wrap(right, found[1]);
    return true;
  };
})();
