"""What a chat model writes before a task, in eleven languages: a greeting, an announcement, a label. A closed grammar.

    greeting      "Sure!", "Gerne!", "好的！"; with a comma ("Sure, ...") only before an announcement or a label
    announcement  "Here is another task:", "Here's one:": every word of it is in the list, one of them says that a task comes
    label         "Task 9:", "**Task 9**", "Task 9 - ...", "課題9：" with a number; "New task:", "Task:" with a colon

Anything else is part of the task: "Task management: ...", "Here is a list: ...", "Here is a task that my boss gave me: ...".
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass

_EMOJI = "\U0001f300-\U0001faff\u2600-\u27bf\ufe0f"
_MARKS = r"[ \t*_\"“”„«»「」『』]"  # markdown and quotes between words


@dataclass(frozen=True)
class Words:
    """The words of a language as regular expressions, alternatives with `|`; `fill` is a list with blanks between.

    alone: greetings that may stand alone before a sign. before: only before an announcement or a label. here: what begins an
    announcement. fill: what else may be in it. task: words of which one must be in it; "another" is one, too. label: what a
    number may follow. colon: what a colon may follow.
    """

    alone: str
    before: str
    here: str
    fill: str
    task: str
    label: str
    colon: str
    spaced: bool = True


LANGUAGES = {
    "en": Words(
        alone=(
            "sure(?: thing)?|certainly|of course|absolutely|definitely|gladly|with pleasure|no problem|understood|got it|"
            "happy to help|i(?:['’]d| would) be (?:happy|glad|delighted) to(?: help)?(?: (?:you )?with that)?|i can (?:do|"
            "help with) that|here you go"
        ),
        before="ok|okay|great|alright|all right|yes|thanks|thank you|hello|hi|hi there",
        here=(
            "here(?:['’]s| is| are| comes| goes)|(?:below|(?:the )?following|this) is|how about|let me add|i(?:['’]ll| will) "
            "add"
        ),
        fill=(
            "a an the this that it is are of for to in on with and you for_the_list for_your_list to_the_list to_your_list "
            "one ones before previous earlier above other others all any unlike different distinct unique original creative "
            "interesting fresh from those these has have been so far your covered yet hasn't "
            "i i've made created written wrote came up task "
            "instruction prompt question request assistant not seen completely entirely more another new next additional "
            "further extra "
            "modified similar related rewritten changed"
        ),
        task="task|another|new|next|one|more|additional|further|different|modified|similar|related|rewritten",
        label="(?:new |next )?task|prompt|instruction|question|exercise|problem|request|assignment",
        colon=(
            "(?:(?:the |a |your )?(?:new|next|another|one more) )?(?:task|prompt|instruction|question)|another one|one more|"
            "the next (?:task|one) is"
        ),
    ),
    "de": Words(
        alone=(
            "gerne?|klar(?: doch)?|natürlich|selbstverständlich|sicher(?: doch)?|mit vergnügen|kein problem|alles klar|in "
            "ordnung"
        ),
        before="ok|okay|ja|gut|hallo",
        here="hier (?:ist|kommt|wäre|folgt)|es folgt|wie wäre es mit|das ist",
        fill=(
            "ein eine einen einer die der das den dem neue neuer neues neuen nächste nächsten weitere weiteren andere "
            "anderen noch für dich sie für_die_liste für_deine_liste für_ihre_liste in auf von zu mit und sich nicht "
            "unterscheidet gleicht vorigen vorherigen bisherigen zuvor anders als keiner aufgabe anweisung frage "
            "ähnliche ähnlichen abgewandelte geänderte verwandte"
        ),
        task=r"aufgabe|neue\w*|weitere\w*|nächste\w*|noch|ähnliche|abgewandelte|geänderte|verwandte",
        label="aufgabe|übung|frage|anweisung|auftrag|arbeitsauftrag|prompt",
        colon="(?:(?:die |eine )?(?:neue|nächste|weitere) )?(?:aufgabe|anweisung|frage)|noch eine",
    ),
    "fr": Words(
        alone=(
            "bien sûr|certainement|avec plaisir|volontiers|absolument|bien entendu|très bien|pas de problème|d['’]accord"
        ),
        before="ok|oui|parfait|bonjour",
        here="(?:en )?voici|(?:en )?voilà|ci-dessous|c['’]est",
        fill=(
            "un une la le les l d de des du pour vous toi pour_la_liste pour_votre_liste nouvelle nouveau autre encore "
            "suivante prochaine supplémentaire différente tâche consigne question qui est ne ressemble à aux et pas "
            "précédentes précédents autres toutes dans "
            "similaire modifiée proche"
        ),
        task="tâche|consigne|nouvelle|autre|suivante|prochaine|similaire|modifiée",
        label="tâche|consigne|question|exercice|instruction",
        colon="(?:(?:la |une )?(?:nouvelle|prochaine|autre) )?(?:tâche|consigne|question)(?: suivante)?",
    ),
    "es": Words(
        alone="claro(?: que sí)?|por supuesto|desde luego|con gusto|de acuerdo|muy bien|sin problema|entendido",
        before="ok|vale|sí|perfecto|hola",
        here="aquí (?:tienes?|está|va|hay)|esta es|ahí va|te propongo|a continuación",
        fill=(
            "un una la el los las otra otro nueva nuevo siguiente próxima más adicional diferente distinta tarea instrucción "
            "pregunta para ti usted para_la_lista para_tu_lista que es no se parece a anteriores de demás y en "
            "similar parecida modificada relacionada"
        ),
        task="tarea|nueva|otra|siguiente|próxima|más|similar|parecida|modificada|relacionada",
        label="tarea|instrucción|pregunta|ejercicio|consigna",
        colon=(
            "(?:(?:la |una )?(?:nueva|siguiente|otra|próxima) )?(?:tarea|instrucción|pregunta)(?: nueva| siguiente)?|otra más"
        ),
    ),
    "it": Words(
        alone="certo(?: che sì)?|certamente|volentieri|naturalmente|va bene|d['’]accordo|nessun problema",
        before="ok|sì|perfetto|ciao",
        here="ecco(?:ne|ti|vi)?(?: qui)?|di seguito|quest[oa] è",
        fill=(
            "un una il la lo le i altro altra nuovo nuova prossimo prossima ulteriore diverso diversa compito attività "
            "istruzione domanda per te lei voi per_la_lista per_la_tua_lista che è non somiglia dai dagli dalle da "
            "precedenti altri altre ai "
            "simile modificata modificato"
        ),
        task="compito|attività|nuov[oa]|altr[oa]|prossim[oa]|ulteriore|simile|modificat[ao]",
        label="compito|attività|istruzione|domanda|esercizio",
        colon="(?:(?:il |un |una |la )?(?:nuov[oa]|prossim[oa]|altr[oa]) )?(?:compito|attività|istruzione|domanda)",
    ),
    "pt": Words(
        alone=(
            "claro(?: que sim)?|com certeza|certamente|com prazer|pois não|sem problema|entendido|está bem|tudo bem"
        ),
        before="ok|sim|perfeito|olá",
        here="aqui (?:está|vai|tem)|aí vai|segue|esta é|eis",
        fill=(
            "um uma a o as os outra outro nova novo próxima mais adicional diferente tarefa instrução pergunta para você ti "
            "para_a_lista para_sua_lista que é não se parece com das dos de anteriores outras e na no "
            "semelhante parecida modificada"
        ),
        task="tarefa|nova|outra|próxima|mais|semelhante|parecida|modificada",
        label="tarefa|instrução|pergunta|exercício",
        colon="(?:(?:a |uma )?(?:nova|próxima|outra) )?(?:tarefa|instrução|pergunta)(?: seguinte)?",
    ),
    "ru": Words(
        alone="конечно|разумеется|с удовольствием|без проблем|хорошо",
        before="да|отлично|пожалуйста|ок|привет",
        here="вот|ниже|это",
        fill=(
            "новая новое новую ещё еще одна одно одну другая другое следующая следующее задача задание задачу вопрос "
            "инструкция для вас тебя для_списка для_вашего_списка которая которое не похожа похоже отличается от предыдущих "
            "других на остальные и "
            "похожее изменённая изменённое измененная измененное"
        ),
        task=r"задани\w*|задач\w*|нов\w+|ещё|еще|друг\w+|следующ\w+|похож\w*|изм\w+",
        label="задание|задача|вопрос|инструкция|упражнение",
        colon="(?:(?:новое|новая|следующее|следующая) )?(?:задание|задача|вопрос|инструкция)",
    ),
    "ko": Words(
        alone="물론(?:이죠|입니다|이지요)?|알겠습니다|좋습니다|그럼요",
        before="네|예|좋아요",
        here="여기|다음은|아래는|이것은",
        fill=(
            "새로운 새 또 다른 과제가 작업이 질문이 하나 더 한 가지 추가 목록에 추가할 이전과 작업 과제 질문 작업입니다 "
            "과제입니다 질문입니다 작업이에요 과제예요 있습니다 있어요 "
            "비슷한 수정된 지시 지시입니다"
        ),
        task=r"작업\w*|과제\w*|질문\w*|비슷한|수정된",
        label="과제|작업|질문|문제|지시",
        colon="(?:(?:새로운|새|다음) )?(?:과제|작업|질문|지시)",
    ),
    "ja": Words(
        alone=(
            "もちろん(?:です)?|承知(?:しました|いたしました)|わかりました|分かりました|了解(?:です|しました|いたしました)|"
            "かしこまりました|喜んで"
        ),
        before="はい|では|それでは",
        here="次[がはの]|以下[がは]|こちら[がは]|これ[がは]|では|もう一つ|新しい|別の",
        fill=(
            "新しい 別の もう一つの もうひとつの 次の 追加の 異なる 違う タスク 課題 お題 です になります を紹介します "
            "を提案します 一つ ひとつ リストに の に を 追加 します こちら は が 、 , "
            "似た 類似の 修正した 指示"
        ),
        task="タスク|課題|お題|指示",
        label="タスク|課題|お題|問題|質問|指示|依頼",
        colon="(?:新しい|次の|別の|もう一つの)?(?:タスク|課題|お題|質問|指示)",
        spaced=False,
    ),
    "zh": Words(
        alone="好的|当然(?:可以)?|當然(?:可以)?|没问题|沒問題|明白了?|收到",
        before="好|可以|是的|您好|你好",
        here="(?:这里?|這裡?|以下|下面|接下来)是|再来|给你|给您",
        fill=(
            "一个 一個 一道 一项 一条 另一个 另一個 另一道 新的 新 全新的 全新 不同的 不同 下一个 下一個 与 和 跟 前面 之前 "
            "以上 上面 都 的 任务 任務 题目 題目 指令 问题 問題 为 您 你 个 ， , "
            "类似的 修改后的 相关的 相似的"
        ),
        task="任务|任務|题目|題目|指令|另一|类似|修改后|相似",
        label="任务|任務|题目|題目|指令|问题|問題|第",
        colon="(?:新的?|下一个|下一個|另一个|另一個)?(?:任务|任務|题目|題目|指令|问题|問題)",
        spaced=False,
    ),
    "th": Words(
        alone="(?:ได้เลย|แน่นอน|ยินดี|รับทราบ|ตกลง)(?:ครับ|ค่ะ|คะ)?",
        before="(?:ได้|โอเค|สวัสดี)(?:ครับ|ค่ะ|คะ)?",
        here="นี่คือ|นี่เป็น|(?:ต่อไปนี้|ด้านล่าง)(?:คือ|เป็น)|ขอเพิ่ม",
        fill=(
            "งาน โจทย์ คำสั่ง คำถาม ใหม่ อีก หนึ่ง ที่ ไม่เหมือน แตกต่าง จาก ก่อนหน้า นี้ ถัดไป ต่อไป สำหรับ คุณ "
            "สำหรับรายการ ของ ชิ้น ข้อ อย่าง เพิ่มเติม "
            "คล้ายกัน ที่แก้ไขแล้ว"
        ),
        task="งาน|โจทย์|คำสั่ง|คำถาม|คล้ายกัน",
        label="งาน|โจทย์(?:ข้อ)?|คำสั่ง|คำถาม|ข้อ",
        colon="(?:งาน|โจทย์|คำสั่ง|คำถาม)(?:ใหม่|ถัดไป|ต่อไป)?",
        spaced=False,
    ),
}

_NUMBER = (
    r"(?:number|no\.?|nr\.?|n[º°o]\.?|№|#|ที่|第)?[ \t]*[#№]?[ \t]*"
    r"(?:\d{1,4}|[一二三四五六七八九十]{1,3})(?:[ \t]*[个個道题項项])?"
)
_OF = r"(?:[ \t]*(?:/|of|von|de|sur|su|из)[ \t]*\d{1,4})?"


@dataclass(frozen=True)
class _Patterns:
    greeting: re.Pattern[str]  # group "alone" where the sign behind it is enough
    announcement: re.Pattern[str]
    task: re.Pattern[str]
    labels: re.Pattern[str]


@functools.cache
def _patterns() -> tuple[_Patterns, ...]:
    return tuple(_of(words) for words in LANGUAGES.values())


def _of(words: Words) -> _Patterns:
    gap, edge = (rf"(?:,?{_MARKS}+|(?<=['’]))", r"(?!\w)") if words.spaced else (rf"{_MARKS}*", "")
    fill = "|".join(re.escape(word).replace("_", "[ \t]") for word in sorted(words.fill.split(), key=len, reverse=True))
    word = rf"(?:{fill}){edge}['’]?" if words.spaced else rf"(?:{fill})"
    end = (
        rf"{_MARKS}*(?:[:：]|[.!。！]?{_MARKS}*(?:\n|$)|[–—-]+(?=\s)|[?？](?=\s)"
        + ("" if words.spaced else "|。")
        + ")"
    )
    blank, behind = rf"[ \t{_EMOJI}]*", rf"(?=[\s{_EMOJI}]|$)" if words.spaced else ""
    sign = rf"{blank}(?:[!.…！。]+{behind}{blank}|[:：]?[ \t]*\n)"
    return _Patterns(
        _compiled(
            rf"(?:(?P<alone>(?:{words.alone}){edge}{sign}|(?:{words.before}){edge}{blank}[!.…！。:：]*[ \t]*\n)"
            rf"|(?:{words.alone}|{words.before}){edge}{blank}[,，、;:!.…！。~–—-]*)"
        ),
        _compiled(rf"(?:{words.here}){edge}(?:{gap}{word})*{end}"),
        re.compile(rf"(?:\b(?:{words.task})\b)" if words.spaced else words.task, re.IGNORECASE),
        _compiled(
            rf"{numbered(words.label)}|(?:{words.colon})[ \t*_]*[:：](?:[ \t]*\d{{1,4}}[ \t]*\n)?"
            + ("|第[一二三四五六七八九十\\d]{1,3}[个個道项][^\\n:：]{0,4}[:：]" if "第" in words.label else "")
        ),
    )


def numbered(label: str) -> str:
    """A regular expression of a label with a number, and what may end it: "Task 9:", "[Task 9]", "Task 9 - ...", "Task 9\\n"."""
    body = rf"(?:{label})[ \t]*{_NUMBER}{_OF}"
    end = r"[ \t*_\])）】]*(?:[:：.．)）、;；→|]|[–—-]{1,2}(?=[ \t]*(?:[^\W\d]|\n))|\n|$)"
    return rf"(?:{body}{end}|(?:\*{{1,3}}|__|\[|\(|【){body}[ \t]*(?:\*{{1,3}}|__|\]|\)|】))"


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_START = re.compile(rf"[\s*_#>`\"“„«「『¡•{_EMOJI}-]*")  # markdown, quotes and bullets before an opening


def opening_end(text: str, own: Iterable[re.Pattern[str]]) -> int:
    """Where the opening at the start of `text` ends; 0 without one. `own`: patterns beside the grammar."""
    start = _skipped(text, 0)
    ends = [_end(patterns, text, start) for patterns in _patterns()]
    for pattern in own:
        ends += [found.end() for begin in (0, start) if (found := pattern.match(text, begin))]
    return max(ends)


def _skipped(text: str, start: int) -> int:
    found = _START.match(text, start)
    assert found is not None
    return found.end()


def _end(patterns: _Patterns, text: str, start: int) -> int:
    """The end of a greeting, an announcement or a label of one language at `start`; 0 without one."""
    greeting = patterns.greeting.match(text, start)
    behind = _skipped(text, greeting.end()) if greeting else start
    announced = patterns.announcement.match(text, behind)
    if announced and patterns.task.search(announced[0]):
        return announced.end()
    # from 0: a label may begin with the emphasis that _START skips
    labels = [found.end() for begin in (0, start, behind) if (found := patterns.labels.match(text, begin))]
    return max(labels, default=greeting.end("alone") if greeting and greeting["alone"] else 0)
