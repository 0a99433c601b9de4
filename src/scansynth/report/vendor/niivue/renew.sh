#!/usr/bin/env bash
# Renews this folder from the npm package of NiiVue: bash renew.sh VERSION. Needs npm, and the network.
#
# npm checks what it downloads against the registry's hash, which is written into VERSION with that of the built file.
# LICENSE is NiiVue's own, from its repository: the package does not hold it. If its terms change, this script stops.
set -euo pipefail
version=${1:?which version of @niivue/niivue?}
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"

npm pack --silent "@niivue/niivue@$version" >/dev/null
tar -xzf niivue-niivue-*.tgz
licence=$(node -p 'require("./package/package.json").license')
[ "$licence" = "BSD-2-Clause" ] || { echo "the licence is now $licence: read it before you go on"; exit 1; }
if grep -q '</script' package/dist/niivue.umd.js; then
    echo "the built file holds </script, which would end the page's script"; exit 1
fi

# What the built file holds of others, with their licences.
npm install --silent --ignore-scripts --no-audit --no-fund --omit=dev --omit=optional "@niivue/niivue@$version" >/dev/null
{
    echo "niivue.umd.js holds code of these packages, under their licences, and the font Roboto (Apache-2.0)."
    find node_modules -name package.json -path '*node_modules/*' | LC_ALL=C sort | while read -r package; do
        folder=$(dirname "$package")
        case $(basename "$(dirname "$folder")") in node_modules | @*) ;; *) continue ;; esac
        [ "$folder" = node_modules/@niivue/niivue ] && continue
        text=$(find "$folder" -maxdepth 1 -iname 'licen[sc]e*' | head -n 1)
        [ -n "$text" ] || { echo "$folder has no licence file" >&2; exit 1; }
        node -p "const p = require('./$package'); \`\n\n=== \${p.name} \${p.version} (\${p.license})\n\`"
        tr -d '\r' <"$text" | sed 's/[[:space:]]*$//'
    done
} >licences

cp package/dist/niivue.umd.js "$here/niivue.umd.js"
cp licences "$here/LICENSES-of-parts"
cat >"$here/VERSION" <<END
package @niivue/niivue
version $version
file dist/niivue.umd.js
sha256 $(sha256sum package/dist/niivue.umd.js | cut -d ' ' -f 1)
package-integrity $(npm view --silent "@niivue/niivue@$version" dist.integrity)
END
cat "$here/VERSION"
