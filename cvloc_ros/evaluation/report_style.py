"""The frame around a report's content: HTML and CSS, without anything to load."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ --ink: #1d2733; --quiet: #65717f; --line: #e3e8ee; --back: #f4f6f9; --card: #fff; --accent: #0a6ebd; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
main {{ max-width: 1160px; margin: 0 auto; padding: 28px 20px 60px; }}
h1 {{ font-size: 25px; margin: 0; letter-spacing: -.01em; }}
h2 {{ font-size: 17px; margin: 0 0 14px; }}
.facts {{ color: var(--quiet); margin: 4px 0 20px; overflow-wrap: anywhere; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-bottom: 18px; }}
.tiles div, section {{ background: var(--card); border: 1px solid var(--line); border-radius: 12px; }}
.tiles div {{ padding: 14px 16px; display: flex; flex-direction: column; }}
.tiles b {{ font-size: 12px; font-weight: 600; color: var(--quiet); text-transform: uppercase; letter-spacing: .05em; }}
.tiles strong {{ font-size: 27px; line-height: 1.25; color: var(--accent); font-variant-numeric: tabular-nums; }}
.tiles span {{ font-size: 13px; color: var(--quiet); }}
.note {{ background: #fff6e0; border: 1px solid #f0d9a0; border-radius: 10px; padding: 10px 16px; margin: 0 0 14px; }}
section {{ padding: 20px 22px; margin-bottom: 18px; }}
section p, figcaption {{ color: var(--quiet); font-size: 13.5px; margin: 10px 0 0; max-width: 80ch; }}
figure {{ margin: 0; }}
figure + figure {{ margin-top: 22px; }}
img {{ display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: 6px; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: right; padding: 6px 8px; border-bottom: 1px solid var(--line); white-space: nowrap; }}
th {{ font-weight: 600; color: var(--quiet); }}
th:first-child, td:first-child, th:last-child:nth-child(-n+3), td:last-child:nth-child(-n+3) {{ text-align: left; }}
td:first-child {{ font-weight: 500; }}
td:last-child:nth-child(-n+3) {{ white-space: normal; overflow-wrap: anywhere; color: var(--quiet); width: 75%; }}
tbody tr:last-child td {{ border-bottom: 0; }}
.sourced :is(th, td):nth-last-child(-n+2) {{ text-align: left; white-space: normal; min-width: 20ch;
  color: var(--quiet); }}
details {{ margin-top: 16px; }}
summary {{ cursor: pointer; color: var(--accent); }}
pre {{ background: var(--back); padding: 14px; border-radius: 8px; overflow: auto; font-size: 12.5px; }}
footer {{ color: var(--quiet); font-size: 13px; text-align: center; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
<footer>cvloc_ros {version}</footer>
</main>
</body>
</html>
"""
