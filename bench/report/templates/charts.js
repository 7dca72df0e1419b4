// Charts are drawn when they come near the screen, or when nothing else is to be done, so that they never delay the page.
"use strict";
(() => {
  const NARROW = 560;
  const theme = {
    background: "transparent",
    font: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', sans-serif",
    axis: {
      labelColor: "var(--ink)", titleColor: "var(--muted)", gridColor: "var(--line)", domainColor: "var(--strong-line)",
      tickColor: "var(--strong-line)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", labelLimit: 500,
    },
    legend: { labelColor: "var(--ink)", titleColor: "var(--muted)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
    header: { labelColor: "var(--ink)", titleColor: "var(--muted)", labelFontSize: 13 },
    title: { color: "var(--ink)", subtitleColor: "var(--muted)" },
    view: { stroke: "var(--line)" },
  };

  const joined = ["vconcat", "hconcat", "concat"];
  const whole = (spec) => ![...joined, "facet", "repeat"].some((name) => name in spec)
    && !["row", "column", "facet"].some((name) => spec.encoding && name in spec.encoding);

  // Panels that stand below each other become charts of their own, each as wide as the page.
  function panels(spec) {
    const name = joined.find((one) => spec[one]?.every(whole));
    if (!name) return [spec];
    const { [name]: members, resolve, spacing, columns, ...common } = spec;
    return members.map((member) => ({ ...common, ...member }));
  }

  // On a phone a row's name stands above its marks: beside them it would leave them no room. Long ones take two lines.
  function narrowed(spec, width) {
    const rows = (one) => one.encoding?.y?.type === "nominal";
    const y = [spec, ...(spec.layer ?? [])].find(rows)?.encoding.y;
    if (!y) return spec;
    // Names begin at the page's edge also where an aligned panel has numbers left of its plot.
    const aside = spec.usermeta?.aligned ? 56 : 0;
    const line = Math.floor(width / 6.2);
    const long = Array.isArray(y.sort) && y.sort.some((name) => name.length > line);
    const cut = `lastindexof(slice(datum.label, 0, ${line}), '-')`;
    const above = {
      labelAlign: "left", labelBaseline: "bottom", labelOffset: long ? -22 : -9, labelPadding: aside, labelLimit: width - 8, ticks: false,
      domain: false, zindex: 1,
      ...(long && { labelExpr: `length(datum.label) > ${line} ? [slice(datum.label, 0, ${cut}), slice(datum.label, ${cut})] : ['', datum.label]` }),
    };
    const changed = (one) => {
      const next = { ...one };
      if (one.layer) next.layer = one.layer.map(changed);
      if (rows(one)) {
        if (one.mark?.type === "bar") next.mark = { ...one.mark, height: 13 };
        // Words beside a mark may leave the page; opposite the row's name they have room.
        const words = one.mark?.type === "text" && one.encoding.text?.type === "nominal";
        if (words) next.mark = { ...one.mark, align: "right", baseline: "bottom", dx: 0, dy: -9 };
        const x = words ? { x: { value: "width" } } : {};
        next.encoding = { ...one.encoding, ...x, y: { ...one.encoding.y, title: null, axis: { ...one.encoding.y.axis, ...above } } };
      }
      return next;
    };
    const room = long ? 2.5 : 1.8;
    // Without a frame: its upper edge would go through the first name.
    return { ...changed(spec), view: { stroke: null }, height: typeof spec.height === "number" ? spec.height * room : { step: 19 * room } };
  }

  // The names in a legend, as far as its scale tells them.
  function named(spec) {
    const own = Object.values(spec.encoding ?? {}).flatMap((channel) => channel?.scale?.domain ?? []);
    return [...own, ...(spec.layer ?? []).flatMap(named)].filter((one) => typeof one === "string");
  }

  function fitted(spec, width) {
    const narrow = width < NARROW;
    const fit = whole(spec) ? { width: "container" } : {};
    const config = { ...spec.config };
    for (const [name, values] of Object.entries(theme)) {
      config[name] = typeof values === "object" ? { ...config[name], ...values } : values;
    }
    config.padding = 2;
    if (narrow) {
      config.axis = { ...config.axis, labelFontSize: 11 };
      config.axisX = { ...config.axisX, tickCount: 5 };
      const below = { direction: "vertical", anchor: "start" };
      // In two columns only where every name has room in half of the width.
      const longest = Math.max(0, ...named(spec).map((name) => name.length));
      const columns = longest * 7 + 40 > (width - 60) / 2 ? 1 : 2;
      config.legend = { ...config.legend, orient: "top", columns, labelLimit: width - 90, layout: { top: below } };
    }
    return { ...(narrow ? narrowed(spec, width) : spec), ...fit, config };
  }

  // Panels with one axis for all: each gets as much room left and right of its plot as the one that needs most.
  async function align(views) {
    const edges = views.map((view) => {
      const [left] = view.origin();
      const plot = view.container().clientWidth;
      return { left, right: plot - left - view.width() };
    });
    const most = (side) => Math.max(...edges.map((edge) => edge[side]));
    for (const [number, view] of views.entries()) {
      const { left, right } = edges[number];
      const padding = view.padding();
      view.padding({ ...padding, left: padding.left + most("left") - left, right: padding.right + most("right") - right }).resize();
      await view.runAsync();
    }
  }

  // Between two panels the page answers whoever clicked or scrolled meanwhile. A limit, since idle time may never be granted.
  const idle = (job) => (window.requestIdleCallback ? requestIdleCallback(job, { timeout: 300 }) : setTimeout(job, 50));
  // Paper waits for nothing but what the browser does at once, before it prints: from then on no panel waits for its turn.
  let hurry;
  const hurried = new Promise((done) => { hurry = done; });
  const pause = () => Promise.race([hurried, new Promise(idle)]);

  function start() {
    if (window.vegaEmbed) return;
    const script = document.createElement("script");
    script.textContent = document.getElementById("vega").textContent;
    document.head.append(script);
  }

  // A panel for each step: one is shown, the others are a click away, and paper shows all.
  function offer(plot, titles, first) {
    const tabs = plot.appendChild(document.createElement("div"));
    tabs.className = "tabs";
    tabs.setAttribute("role", "group");
    tabs.setAttribute("aria-label", "Measured with");
    const places = titles.map(() => plot.appendChild(document.createElement("div")));
    const buttons = titles.map((title) => tabs.appendChild(document.createElement("button")));
    const show = (chosen) => {
      for (const [number, place] of places.entries()) {
        place.className = number === chosen ? "panel" : "panel off";
        buttons[number].setAttribute("aria-pressed", String(number === chosen));
      }
    };
    for (const [number, button] of buttons.entries()) {
      button.type = "button";
      button.textContent = titles[number];
      button.addEventListener("click", () => show(number));
    }
    show(Math.max(titles.indexOf(first), 0));
  }

  async function draw(figure) {
    if (figure.dataset.state) return;
    figure.dataset.state = "drawing";
    const plot = figure.querySelector(".plot");
    try {
      start();
      const spec = JSON.parse(figure.querySelector("script[type='application/json']").textContent);
      const width = plot.clientWidth;
      const parts = panels(spec);
      plot.replaceChildren();
      if (figure.dataset.first && parts.length > 1) offer(plot, parts.map((part) => part.title?.text ?? part.title), figure.dataset.first);
      const views = [];
      for (const [number, panel] of parts.entries()) {
        await pause();
        const place = plot.querySelectorAll(".panel")[number] ?? plot.appendChild(document.createElement("div"));
        place.classList.add("panel");
        // The interpreter instead of generated code: the page's policy allows no eval.
        const { view } = await window.vegaEmbed(place, fitted(panel, width), {
          ast: true, renderer: "svg", actions: false, defaultStyle: false, tooltip: { disableDefaultStyle: true },
        });
        views.push(view);
        // To a screen reader a chart is one picture; its numbers are in the tables.
        place.setAttribute("role", "img");
        place.setAttribute("aria-label", [panel.title?.text ?? panel.title, spec.description].filter(Boolean).join(": "));
        place.querySelector("svg").setAttribute("aria-hidden", "true");
      }
      if (spec.usermeta?.aligned) await align(views);
      figure.dataset.state = "drawn";
      figure.dataset.drawn = "";
    } catch (error) {
      figure.dataset.state = "failed";
      plot.textContent = `This chart could not be drawn: ${error.message}`;
      throw error;
    }
  }

  const figures = [...document.querySelectorAll("figure.chart")];
  const near = new IntersectionObserver(
    (entries) => { for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); draw(entry.target); } },
    { rootMargin: "300px" },
  );
  for (const figure of figures) near.observe(figure);

  // The rest one by one in idle time, so that printing finds all of them.
  async function rest() {
    const next = figures.find((figure) => !figure.dataset.state);
    if (!next) return;
    await draw(next);
    idle(rest);
  }
  addEventListener("load", () => idle(rest));
  addEventListener("beforeprint", () => { hurry(); for (const figure of figures) draw(figure); });
})();
