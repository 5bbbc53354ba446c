/* Painting a case: which characters a feature fires at, and which features fire at a character.
   The page is complete without this file: the server paints by the address. Offsets are UTF-16 units, as a browser counts.
   Steps as in heat.py: ceil(8 v / maximum). */
(function () {
  "use strict";
  var STEPS = 8, SPAN_LIMIT = 2000;
  var holder = document.getElementById("case-data");
  if (!holder) return;
  var data = JSON.parse(holder.textContent);
  var parts = new Map(), live = document.getElementById("live"), panel = document.getElementById("painted");
  var byHighlight = typeof Highlight === "function" && typeof CSS !== "undefined" && !!CSS.highlights;
  var pinned = null, scale = data.scale, cursor = null;
  var asked = new URLSearchParams(location.search), wanted = asked.get("feature");

  data.parts.forEach(function (part) {
    var element = document.querySelector('.part[data-part="' + CSS.escape(part.key) + '"]');
    if (!element) return;
    var edges = [], at = 0; /* starts and ends as steps from the one before */
    for (var i = 0; i < part.segments.length; i++) { at += part.segments[i]; edges.push(at); }
    var text = element.textContent;
    element.textContent = text; /* one text node again, where the server had painted or the parser had split */
    parts.set(part.key, { key: part.key, element: element, node: element.firstChild, text: text, edges: edges, masked: part.masked, excluded: part.excluded });
  });

  function step(value, maximum) { return Math.max(1, Math.min(STEPS, Math.ceil(STEPS * value / maximum))); }

  function maximumOf(feature) {
    if (scale === "study" && feature.maximum) return feature.maximum;
    return feature.paint.reduce(function (most, p) { return Math.max(most, p[2]); }, 0);
  }

  function range(part, start, end) {
    return new StaticRange({ startContainer: part.node, startOffset: start, endContainer: part.node, endOffset: end });
  }

  function highlight(name, ranges) {
    if (!byHighlight) return;
    if (!ranges.length) { CSS.highlights.delete(name); return; }
    var made = new Highlight();
    ranges.forEach(function (each) { made.add(each); });
    CSS.highlights.set(name, made);
  }

  function clear() {
    if (byHighlight) { for (var n = 1; n <= STEPS; n++) CSS.highlights.delete("h" + n); return; }
    parts.forEach(function (part) {
      if (part.element.childElementCount) { part.element.textContent = part.text; part.node = part.element.firstChild; }
    });
  }

  /* Without highlights: marks, for texts of a bearable length. */
  function bySpans(painted) {
    painted.forEach(function (pieces, part) {
      if (part.edges.length / 2 > SPAN_LIMIT) return;
      var all = document.createDocumentFragment(), at = 0;
      pieces.sort(function (a, b) { return a.start - b.start; }).forEach(function (piece) {
        all.append(part.text.slice(at, piece.start));
        var mark = document.createElement("mark");
        mark.className = "h" + piece.step;
        mark.textContent = part.text.slice(piece.start, piece.end);
        all.append(mark);
        at = piece.end;
      });
      all.append(part.text.slice(at));
      part.element.replaceChildren(all);
    });
  }

  function paint(index) {
    var feature = data.features[index];
    clear();
    if (!feature) return;
    var most = maximumOf(feature), steps = [], painted = new Map(), strongest = 0;
    for (var n = 0; n <= STEPS; n++) steps.push([]);
    feature.paint.forEach(function (p) {
      var part = parts.get(data.parts[p[0]].key);
      if (!part || 2 * p[1] + 1 >= part.edges.length) return;
      var start = part.edges[2 * p[1]], end = part.edges[2 * p[1] + 1], s = step(p[2], most);
      strongest = Math.max(strongest, p[2]);
      if (byHighlight) steps[s].push(range(part, start, end));
      else painted.set(part, (painted.get(part) || []).concat({ start: start, end: end, step: s }));
    });
    if (byHighlight) for (n = 1; n <= STEPS; n++) highlight("h" + n, steps[n]);
    else bySpans(painted);
    say(feature.name + ", " + data.words.activation + " " + strongest.toPrecision(3) + ", " +
        data.words.step.replace("{step}", strongest ? step(strongest, most) : 0));
  }

  /* A second feature beside the one that stays: by a dotted line alone, never by a mixed colour. */
  function second(index) {
    var feature = data.features[index], ranges = [];
    feature.paint.forEach(function (p) {
      var part = parts.get(data.parts[p[0]].key);
      if (part && part.node && 2 * p[1] + 1 < part.edges.length) ranges.push(range(part, part.edges[2 * p[1]], part.edges[2 * p[1] + 1]));
    });
    highlight("second", ranges);
    say(feature.name + ", " + data.words.second);
  }

  function look(index) { if (pinned !== null && pinned !== index && byHighlight) second(index); else paint(index); }

  function say(text) { if (live) live.textContent = text; }

  function show() { highlight("second", []); if (pinned === null) clear(); else paint(pinned); }

  function pin(index) {
    pinned = index;
    document.querySelectorAll("a.paint").forEach(function (link) {
      if (index !== null && Number(link.dataset.feature) === index) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
    panel.hidden = index === null;
    if (index !== null) named(index);
    address("feature", index);
    show();
    if (index !== null) reveal(index);
  }

  /* A text that scrolls in a box of its own is moved to where the feature first fires. */
  function reveal(index) {
    var seen = new Set();
    data.features[index].paint.forEach(function (p) {
      var part = parts.get(data.parts[p[0]].key);
      if (!part || !part.node || seen.has(part) || part.element.scrollHeight <= part.element.clientHeight) return;
      seen.add(part);
      var first = document.createRange(), box = part.element.getBoundingClientRect();
      first.setStart(part.node, part.edges[2 * p[1]]);
      first.setEnd(part.node, part.edges[2 * p[1] + 1]);
      part.element.scrollTop += first.getBoundingClientRect().top - box.top - part.element.clientHeight / 3;
    });
  }

  function named(index) {
    var more = document.getElementById("painted-more");
    var link = document.querySelector('a.paint[data-feature="' + index + '"]'), own = link && link.parentElement.querySelector("a.more");
    document.getElementById("painted-name").textContent = data.features[index].name;
    if (own) { more.href = own.href; more.hidden = false; }
    else if (String(index) !== wanted) more.hidden = true; /* the server made it for the one that the address asked for */
  }

  function changed(address, name, value) {
    var url = new URL(address);
    if (value === null) url.searchParams.delete(name); else url.searchParams.set(name, value);
    return url;
  }

  /* The page's state stands in the address and in the links that stay on the page. */
  function address(name, value) {
    var url = changed(location.href, name, value);
    document.querySelectorAll(".pair a, #scale").forEach(function (link) { link.href = changed(link.href, name, value); });
    try { history.replaceState(null, "", url); } catch (error) { return; /* a file opened from disk may not */ }
    var permalink = document.getElementById("permalink");
    if (permalink) { permalink.href = url.href; permalink.textContent = url.pathname + url.search; }
  }

  /* Features: links that paint while they have focus or the pointer, and keep painting when followed. */
  function linkAt(event) { return event.target.closest ? event.target.closest("a[data-feature]") : null; }
  function has(link) { return Object.prototype.hasOwnProperty.call(data.features, link.dataset.feature); }
  document.addEventListener("pointerover", function (event) { var link = linkAt(event); if (link && has(link)) look(Number(link.dataset.feature)); });
  document.addEventListener("pointerout", function (event) { if (linkAt(event)) show(); });
  document.addEventListener("focusin", function (event) { var link = linkAt(event); if (link && has(link)) look(Number(link.dataset.feature)); });
  document.addEventListener("focusout", function (event) { if (linkAt(event)) show(); });
  document.addEventListener("click", function (event) {
    var link = linkAt(event);
    if (link && has(link) && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
      event.preventDefault();
      var index = Number(link.dataset.feature);
      pin(pinned === index ? null : index);
    } else if (event.target.closest && event.target.closest("#clear")) {
      event.preventDefault();
      pin(null);
    }
  });
  document.addEventListener("keydown", function (event) {
    var link = linkAt(event);
    if (event.key === "Escape") { if (!document.querySelector("dialog[open]")) { clear(); highlight("second", []); closeToken(); } return; }
    if (!link) return;
    var all = Array.from(document.querySelectorAll("a.paint")), at = all.indexOf(link), next = null;
    if (event.key === " ") { event.preventDefault(); link.click(); return; }
    if (at < 0) return;
    if (event.key === "ArrowDown") next = all[at + 1];
    else if (event.key === "ArrowUp") next = all[at - 1];
    else if (event.key === "Home") next = all[0];
    else if (event.key === "End") next = all[all.length - 1];
    if (next) { event.preventDefault(); next.focus(); }
  });

  /* Characters: a click, or a cursor that the arrows move, asks which features fire there. */
  function segmentAt(part, offset) {
    for (var i = 0; i < part.edges.length; i += 2) if (offset >= part.edges[i] && offset < part.edges[i + 1]) return i / 2;
    return -1;
  }

  function partOf(element) {
    var holder = element && element.closest ? element.closest(".part") : null;
    return holder ? parts.get(holder.dataset.part) : undefined;
  }

  function clicked(event) {
    var part = partOf(event.target);
    if (!part || String(getSelection())) return;
    var node, offset;
    if (document.caretPositionFromPoint) {
      var caret = document.caretPositionFromPoint(event.clientX, event.clientY);
      if (caret) { node = caret.offsetNode; offset = caret.offset; }
    } else if (document.caretRangeFromPoint) {
      var found = document.caretRangeFromPoint(event.clientX, event.clientY);
      if (found) { node = found.startContainer; offset = found.startOffset; }
    }
    if (node !== part.node) return;
    var segment = segmentAt(part, offset);
    if (segment < 0) segment = segmentAt(part, offset - 1);
    if (segment >= 0) { move(part, segment); ask(); }
  }

  function move(part, segment) {
    cursor = { part: part, segment: segment };
    var start = part.edges[2 * segment], end = part.edges[2 * segment + 1];
    highlight("cursor", [range(part, start, end)]);
    say(part.text.slice(start, end));
  }

  document.addEventListener("click", clicked);
  parts.forEach(function (part) {
    part.element.addEventListener("keydown", function (event) {
      var n = part.edges.length / 2;
      if (!n) return;
      var at = cursor && cursor.part === part ? cursor.segment : -1;
      if (event.key === "ArrowRight" && event.ctrlKey) { event.preventDefault(); other(part, 1); }
      else if (event.key === "ArrowLeft" && event.ctrlKey) { event.preventDefault(); other(part, -1); }
      else if (event.key === "ArrowRight") { event.preventDefault(); move(part, Math.min(n - 1, at + 1)); }
      else if (event.key === "ArrowLeft") { event.preventDefault(); move(part, Math.max(0, at - 1)); }
      else if (event.key === "Enter" && at >= 0) { event.preventDefault(); ask(); }
    });
  });

  function other(part, by) {
    var all = Array.from(parts.values()).filter(function (each) { return each.edges.length; });
    var next = all[all.indexOf(part) + by];
    if (!next) return;
    next.element.setAttribute("tabindex", "0");
    next.element.focus();
    move(next, 0);
  }

  function ask() {
    var at = cursor, place = at.part.key + ":" + at.segment;
    address("at", place);
    if (!data.api) { listed(here(at)); return; }
    fetch(data.api + "/token?part=" + encodeURIComponent(at.part.key) + "&segment=" + at.segment, { headers: { accept: "application/json" } })
      .then(function (answer) { if (!answer.ok) throw new Error(String(answer.status)); return answer.json(); })
      .then(function (found) {
        if (cursor !== at) return;
        listed({ text: found.text, total: found.total, features: found.features.map(function (f) {
          return { index: f.name.index, name: nameOf(f.name), value: f.paint.length ? f.paint[0].value : 0 };
        }) });
      })
      .catch(function () { say(data.words.failed); });
  }

  /* Without a server: of the features on this page, those that fire there. */
  function here(at) {
    var place = data.parts.findIndex(function (part) { return part.key === at.part.key; }), found = [];
    Object.keys(data.features).forEach(function (index) {
      var feature = data.features[index];
      feature.paint.forEach(function (p) {
        if (p[0] === place && p[1] === at.segment) found.push({ index: Number(index), name: feature.name, value: p[2], share: feature.maximum ? p[2] / feature.maximum : 0 });
      });
    });
    found.sort(function (a, b) { return b.share - a.share; });
    return { text: at.part.text.slice(at.part.edges[2 * at.segment], at.part.edges[2 * at.segment + 1]), total: found.length, features: found };
  }

  function listed(found) {
    var panel = document.getElementById("token"), title = document.createElement("h3"), list = document.createElement("ul");
    var mark = document.createElement("mark"), total = document.createElement("span");
    mark.className = "untrusted h3";
    mark.textContent = found.text;
    total.className = "small muted";
    total.textContent = " " + data.words.total.replace("{n}", found.total);
    title.append(data.words.token + " ", mark, total);
    found.features.forEach(function (f) {
      var row = document.createElement("li"), link = document.createElement("a"), value = document.createElement("span");
      link.dataset.feature = f.index;
      link.href = data.feature.replace("{feature}", f.index);
      link.textContent = f.name;
      value.className = "n small muted";
      value.textContent = Number(f.value).toPrecision(3);
      row.append(link, " ", value);
      list.append(row);
    });
    panel.replaceChildren(title, list);
    panel.hidden = false;
    say(title.textContent);
  }

  /* Never by a number alone, where there is anything else. */
  function nameOf(name) { return name.label || name.phrases.join(" \u00b7 ") || data.words.unnamed.replace("{feature}", name.index); }

  function closeToken() { document.getElementById("token").hidden = true; highlight("cursor", []); }

  /* The scale: of the study, so that cases compare, or of this text. */
  var switcher = document.getElementById("scale");
  if (switcher && !data.api) switcher.addEventListener("click", function (event) {
    event.preventDefault();
    scale = scale === "study" ? "text" : "study";
    address("scale", scale);
    switcher.textContent = data.words["scale_" + scale];
    show();
  });

  /* Tabs on a narrow screen. */
  var body = document.querySelector("main"), buttons = Array.from(document.querySelectorAll(".tabs button"));
  body.classList.add("has-tabs");
  function tab(name) {
    body.dataset.tab = name;
    buttons.forEach(function (button) { button.setAttribute("aria-pressed", String(button.dataset.show === name)); });
  }
  buttons.forEach(function (button) { button.addEventListener("click", function () { tab(button.dataset.show); }); });

  /* Begin as the address says. */
  if (!data.api && asked.get("scale") === "text") { scale = "text"; if (switcher) switcher.textContent = data.words.scale_text; }
  var masked = [], excluded = [];
  parts.forEach(function (part) {
    if (!part.node) return;
    part.masked.forEach(function (span) { masked.push(range(part, span[0], span[1])); });
    part.excluded.forEach(function (i) { excluded.push(range(part, part.edges[2 * i], part.edges[2 * i + 1])); });
  });
  highlight("masked", masked);
  highlight("excluded", excluded);
  if (wanted !== null && Object.prototype.hasOwnProperty.call(data.features, wanted)) { pin(Number(wanted)); tab("features"); } else tab("asked");
  var place = (asked.get("at") || "").match(/^(.+):(\d+)$/);
  if (place && parts.has(place[1]) && 2 * Number(place[2]) < parts.get(place[1]).edges.length) {
    move(parts.get(place[1]), Number(place[2]));
    if (document.getElementById("token").hidden) ask();
    parts.get(place[1]).element.scrollIntoView({ block: "nearest" });
  }
})();
