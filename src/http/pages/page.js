// Adds comfort to a page that works without it: a filter, and buttons that copy.
"use strict";

document.documentElement.classList.add("js");

document.addEventListener("DOMContentLoaded", () => {
  const said = document.getElementById("said");
  addCopyButtons(said);
  const filter = document.getElementById("filter");
  if (filter) addFilter(filter);
});

function addCopyButtons(said) {
  for (const holder of document.querySelectorAll(".copy")) {
    const name = holder.closest("tr")?.querySelector("bdi").textContent;
    const what = holder.dataset.what ?? (!name ? "the upload command" : holder.closest(".digest") ? `the SHA-256 of ${name}` : `the command for ${name}`);
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Copy";
    button.setAttribute("aria-label", `Copy ${what}`);
    button.dataset.what = what;
    holder.append(button);
  }

  document.addEventListener("click", async ({ target }) => {
    const button = target.closest?.(".copy button");
    if (!button) return;
    const done = await copy(button.parentElement.querySelector("code"));
    said.textContent = "";
    // A status that does not change is not read out again.
    setTimeout(() => {
      said.textContent = done ? `Copied ${button.dataset.what}` : "Could not copy; the text is selected";
    }, 50);
    if (!done) return;
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1500);
  });
}

// Over plain HTTP a browser offers no clipboard, except on localhost; the old way still works there.
async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    if (!document.execCommand("copy")) return false;
    getSelection().removeAllRanges();
    return true;
  }
}

function addFilter(input) {
  const fold = (text) => text.normalize("NFKC").toLowerCase();
  const rows = Array.from(document.querySelectorAll("tbody tr"), (row) => ({
    row,
    text: fold(`${row.querySelector("bdi").textContent}\n${row.querySelector(".digest code")?.textContent ?? ""}`),
  }));
  const count = document.getElementById("count");
  const all = count.textContent;
  const none = document.getElementById("none");

  const apply = () => {
    const words = fold(input.value).split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { row, text } of rows) {
      row.hidden = !words.every((word) => text.includes(word));
      if (!row.hidden) shown += 1;
    }
    none.hidden = shown > 0;
    count.textContent = words.length ? `${shown.toLocaleString("en")} of ${all}` : all;
  };

  input.addEventListener("input", apply);
  document.getElementById("clear").addEventListener("click", () => {
    input.value = "";
    apply();
    input.focus();
  });
  // A browser that comes back to the page restores the text, and says nothing.
  addEventListener("pageshow", apply);
}
