const byId = (id) => document.getElementById(id);
const readBlock = (id) => (byId(id) ? JSON.parse(byId(id).textContent) : null);
const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// A table of contents, since the page is long.
for (const section of document.querySelectorAll("main > section")) {
  const heading = section.querySelector("h2").textContent;
  document.querySelector("nav").append(make("a", {href: `#${section.id}`, textContent: heading}));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const value = (row, at) => row.cells[at].dataset.value ?? row.cells[at].textContent;
  heads.forEach((head, at) => head.firstElementChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    const numeric = "value" in (body.rows[0]?.cells[at].dataset ?? {});
    const compare = (a, b) => {
      const x = value(a, at), y = value(b, at);
      if (numeric && (x === "" || y === "")) return (x === "") - (y === "");
      const order = numeric ? x - y : x.localeCompare(y, undefined, {numeric: true});
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    byId("sorted").textContent =
      `Sorted by ${head.textContent}, ${up ? "ascending" : "descending"}.`;
  }));
}

// What is folded away on the screen is printed all the same; 3-D is not.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open]):not(#space)")];
  folded.forEach((details) => { details.open = true; });
});
addEventListener("afterprint", () => folded.forEach((details) => { details.open = false; }));
