package loadgen

import "strings"

// wordBits is the number of bits that one word can carry: the vocabulary has 1 << wordBits words.
const wordBits = 10

// functionWords is how many words at the head of the vocabulary are drawn more often than the others.
const functionWords = 96

// vocabulary gives 1,024 common English words, the commonest first, lower case, all different. Each is one token
// of the uncased WordPiece vocabulary of BERT, and one token (with its leading space) of most byte-level ones.
func vocabulary() []string { return strings.Fields(wordList) }

const wordList = `
the of and in to was he is as for on with that it his by at from her she you had an were but be this are not my
they one which or have him me first all also their has up who out been when after there into new two its time
would no what about said we over then other so more can if like back them only some could where just during
before do made school through than now years most world may between down well three year while will later city
under around did such being used state people part know against your many second university both national these
known off way until how even get head team american because born united film since still long work south became
any high again day family see right man eyes house season states including took life north same each called name
much place however go four group another found won area here going away series left home music best make hand
number company several never last very album take end good too following released game played little began
district old want those side held own early county league use west face think government march came small
general town june line based something september thought looked along international air july club went january
october our august april york few east show member college father public come men five set station next former
november room party located december age got system let love though every look song water century without body
black night within great women single building large population river named band white started once should
service top built british open moved local times children february book why door need president order final road
although due major village third knew asked turned wanted say together received main son served different behind
himself felt members power football law voice play near park history having saw mother army point front help
english street art late hands games award put published country division across told often ever french london
center six red led days include light find tell among species really according central half form original gave
office making enough lost full opened must included live given german player run business woman community cup
might million land court development short round seen class story always become sure research almost director
council career things using island car close force better free support control field students education married
nothing worked others record big inside level anything continued give military established non returned feel
does title written thing feet far association hard already championship human western department role various
production heart living version television royal produced working act case society region present radio period
looking least total keep england wife program brother mind special works soon political services taken created
further able reached union joined upon done important social information either appeared position ground lead
rock dark election board france hair course arms site police girl instead real sound words moment someone summer
project announced less wrote past followed blue founded finally india taking records america design considered
northern stop toward european outside described track today playing language call heard professional low
australia miles california win yet green trying southern science maybe everything match square mouth video race
recorded leave above daughter points space museum change middle common move post lake seven tried elected closed
ten minister months start chief return canada person sea release similar modern brought rest hit formed floor
event doing care training star week needed turn finished railway rather news health sent example ran term coming
currently yes forces despite gold areas stage fact says popular originally germany probably developed result
pulled friend stood money running signed word songs child eventually met tour average teams minutes festival
current deep kind decided usually eastern seemed episode bed added table indian private route available idea
throughout centre addition appointed style books eight construction press mean wall friends remained schools
study institute chinese sometimes events possible australian type forward talk process food debut seat
performance committee features character arts herself else lot strong russian range hours arm morning sold
quickly directed guitar china list performed media players smile myself placed coach province towards leading
whole boy official designed grand census europe japanese cross getting alone action lower network wide
washington japan hospital believe changed sister hold gone ship studies academy rights below base involved kept
largest bank future especially beginning movement section female magazine plan professor longer sat walked hill
actually civil energy model families size thus aircraft completed includes data captain fight vocals featured
bridge fourth officer stone hear means medical groups management self lips competition entire lived technology
leaving federal tournament bit passed hot independent awards kingdom spent fine reported fall raised itself stay
true studio sports replaced paris systems saint leader theatre whose market capital parents spanish canadian
earth cut degree writing bay awarded natural higher coast provided previous senior valley organization stopped
onto countries parts conference queen security interest saying allowed master earlier phone matter winning try
happened moving campaign breath nearly certain girls date italian african standing fell artist shows deal mine
industry everyone republic provide collection library student primary owned older via heavy makes attention
anyone africa stated length ended fingers command staff skin foreign opening governor okay medal sun cover job
introduced chest feeling success meet reason standard meeting novel trade source buildings guy goal chapter
native husband previously unit limited entered weeks producer operations mountain takes covered forced related
roman complete successful key texas cold channel traditional films dance clear approximately nine prince
question active tracks ireland regional silver author personal sense operation economic holding twenty
additional speed hour edition regular historic places whom shook movie secretary prior report chicago read
foundation view engine scored units ask airport property ready immediately month listed contract manager
themselves lines navy writer meant runs practice championships singer glass commission required forest starting
culture generally giving access attended test couple stand caught executive eye thinking chair quite shoulder
hope decision plays defeated municipality whether structure offered slowly pain ice direction paper mission
cause
`
