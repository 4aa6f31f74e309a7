// The last answer of each kind, so that nothing is asked twice.

export class Kept {
  /** @type {Map<string, { key: string, answer: Promise<any> }>} */ #answers = new Map();

  /** Forgets all answers. */
  clear() {
    this.#answers.clear();
  }

  /**
   * The answer kept of this kind if the question is the same; else asks. A failed answer is not kept.
   *
   * @template Answer
   * @param {string} kind
   * @param {object} question
   * @param {() => Promise<Answer>} ask
   * @returns {Promise<Answer>}
   */
  ask(kind, question, ask) {
    const key = JSON.stringify(question);
    const kept = this.#answers.get(kind);
    if (kept?.key === key) return kept.answer;
    const answer = ask();
    this.#answers.set(kind, { key, answer });
    answer.catch(() => this.#answers.get(kind)?.answer === answer && this.#answers.delete(kind));
    return answer;
  }
}
